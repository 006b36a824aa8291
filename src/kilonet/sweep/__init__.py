"""A leaf: search under a budget, by Ray Tune and Optuna. Trials are ordinary run folders."""

import os

# Read when Ray is imported: no reports home, none of its own tables, files or handling of Ctrl-C.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AIR_NEW_OUTPUT="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_DISABLE_SIGINT_HANDLER="1",
    # Trials compute as they would by hand; Ray would give way to everybody else.
    RAY_worker_niceness="0",
    # A node without GPUs hides them from its workers, as it always has.
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="1",
)
