"""Pages, cards and comparisons about trained models and their runs."""
