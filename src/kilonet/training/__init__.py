"""From a recipe and images to a run: `train` is the file to read first."""
