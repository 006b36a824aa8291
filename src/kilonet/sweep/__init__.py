"""Architecture search under a budget, by Ray Tune and Optuna. Every trial is an ordinary run folder."""

import os

# Ray reads these when it is imported: no usage reports, and no tables, log files or Ctrl-C handler of its own.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AIR_NEW_OUTPUT="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_DISABLE_SIGINT_HANDLER="1",
    # Workers get the same priority as `kilonet train`; by default Ray lowers it.
    RAY_worker_niceness="0",
    # Hide GPUs from trials that take none; newer versions of Ray no longer do so by default.
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="1",
    # Whoever can connect to Ray runs code on this machine: connections need a token, and a Ray that is started here
    # listens on 127.0.0.1 alone, as Ray by itself does on Windows and macOS only.
    RAY_AUTH_MODE="token",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
)
