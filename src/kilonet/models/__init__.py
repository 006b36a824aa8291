"""A trained network with all it must know to be used: names, kind of images, calibration; loading, prediction."""
