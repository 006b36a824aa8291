"""A leaf: runs held against one another, over seeds and image by image."""
