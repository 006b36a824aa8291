"""A leaf: search under a budget, by Ray Tune and Optuna. Trials are ordinary run folders."""
