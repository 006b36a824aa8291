"""Running a sweep: Ray started or joined, Tune told what to do, and everything put away afterwards."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# Read when Ray is imported: no reports home, none of its own tables, files or handling of Ctrl-C.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AIR_NEW_OUTPUT="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_DISABLE_SIGINT_HANDLER="1",
    # A node without GPUs hides them from its workers, as it always has.
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="1",
)

import ray  # noqa: E402
from ray import tune  # noqa: E402

from kilonet.errors import KilonetError  # noqa: E402
from kilonet.runs import locked  # noqa: E402
from kilonet.sweep import worker  # noqa: E402
from kilonet.sweep.front import Front  # noqa: E402
from kilonet.sweep.halving import HalvingBySize  # noqa: E402
from kilonet.sweep.plan import Plan  # noqa: E402
from kilonet.sweep.search import Candidates  # noqa: E402
from kilonet.sweep.table import LiveTable  # noqa: E402
from kilonet.sweep.trials import Trials  # noqa: E402

_OBJECT_STORE_BYTES = 100 << 20
_FAILURES = 5
"""Times that a trial may lose its worker."""


def run(plan: Plan, address: str | None) -> Front:
    """Run a sweep, or go on with it, to its last trial; returns the front.

    Args:
        plan: what to search.
        address: of the Ray cluster to join; a local one is started without it.

    Raises:
        KilonetError: the sweep's folder is another's or in use, there is no such cluster, or trials failed.
    """
    trials = Trials(plan)
    trials.begin()
    lock = locked(trials.folder)
    try:
        missing = plan.search.trials - sum(map(trials.is_done, trials.records))
        if missing > 0:
            _search(plan, trials, address, missing)
    finally:
        lock.release()
    return Front.of(trials)


def _search(plan: Plan, trials: Trials, address: str | None, missing: int) -> None:
    candidates = Candidates(plan, trials)
    halving = HalvingBySize(plan.search)
    halving.remember(trials, candidates.parameters)
    with _ray(address, plan.base.run.threads) as storage, LiveTable(trials) as table:
        trainable = tune.with_resources(worker.train, _resources(plan, ray.cluster_resources()))
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=candidates, scheduler=halving, num_samples=missing, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=storage,
                callbacks=[table],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=_FAILURES),
            ),
        )
        failures = [result.error for result in tuner.fit() if result.error]
    if failures:
        last = str(failures[0]).strip().splitlines()[-1]
        raise KilonetError(f"{len(failures)} trials failed, the first with: {last}; the same command tries them again")


def _resources(plan: Plan, cluster: dict[str, float]) -> dict[str, float]:
    """Return what a trial takes: a core for each of its threads, and its share of a GPU where there are any."""
    run = plan.base.run
    computes_on_gpu = run.device == "cuda" or (run.device == "auto" and run.engine != "native")
    gpus = plan.search.gpus if computes_on_gpu and cluster.get("GPU") else 0
    return {"cpu": run.threads, "gpu": gpus}


@contextmanager
def _ray(address: str | None, threads: int) -> Iterator[str]:
    """Start or join a cluster; yields a folder for Tune's own files, which are of no use afterwards."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    with tempfile.TemporaryDirectory(prefix="kilonet-", ignore_cleanup_errors=True) as folder:
        try:
            if address is None:
                cores = max(threads, len(os.sched_getaffinity(0)))
                ray.init(
                    num_cpus=cores,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=folder,
                    **quiet,
                )
            else:
                ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"no Ray cluster at {address}" if address else "Ray cannot be started"
            raise KilonetError(f"{where}: {' '.join(str(error).split())[:200]}") from None
        try:
            yield folder
        finally:
            ray.shutdown()
