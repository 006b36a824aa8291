"""Training turns a recipe and images into a run. Read `train` first."""
