"""Trained networks with what is needed to use them: class names, kind of images, calibration, loading, prediction."""
