"""How good a model is: scores, statistics, fitting its calibration, corruptions."""
