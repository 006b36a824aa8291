"""The comparison of runs, over their seeds and image by image."""
