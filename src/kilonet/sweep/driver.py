"""Running a sweep: Ray started or joined, Tune told what to do, and everything put away afterwards."""

import contextlib
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ray
from ray import tune

from kilonet.sweep import worker
from kilonet.sweep.live_table import LiveTable
from kilonet.sweep.pareto import Front
from kilonet.sweep.plan import Plan
from kilonet.sweep.sampler import Candidates
from kilonet.sweep.scheduler import HalvingBySize
from kilonet.sweep.trials import Trials
from kilonet.training.run_folder import locked
from kilonet.utils.environment import cores
from kilonet.utils.errors import KilonetError

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
    with (
        # Of a node that is lost Ray prints its whole log; the table says in a line which trials go on elsewhere.
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        _ray(address, plan.base.run.threads),
        _scratch(trials.folder / ".tune") as scratch,
        LiveTable(trials) as table,
    ):
        trainable = tune.with_resources(worker.train, _resources(plan, ray.cluster_resources()))
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=candidates, scheduler=halving, num_samples=missing, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                callbacks=[table],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=_FAILURES),
            ),
        )
        _run_all(tuner)
    if not trials.records:
        raise KilonetError(candidates.exhausted)
    if candidates.exhausted:
        print(f"the search ends here: {candidates.exhausted}", file=sys.stderr)
    if candidates.failures:
        count = len(candidates.failures)
        raise KilonetError(
            f"could not be trained: {count}, first {candidates.failures[0]}; the same command tries again"
        )


def _run_all(tuner: tune.Tuner) -> None:
    try:
        tuner.fit()
    except (tune.TuneError, ray.exceptions.RayError) as error:
        last = str(error).strip().splitlines()[-1]
        raise KilonetError(f"Ray has given up: {last}; the same command goes on") from None


def _resources(plan: Plan, cluster: dict[str, float]) -> dict[str, float]:
    """Return what a trial takes: a core for each of its threads, and its share of a GPU where there are any."""
    run = plan.base.run
    computes_on_gpu = run.device == "cuda" or (run.device == "auto" and run.engine != "native")
    gpus = plan.search.gpus if computes_on_gpu and cluster.get("GPU") else 0
    return {"cpu": run.threads, "gpu": gpus}


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[str]:
    """Yield a place for Tune's own files, which all machines must see and nobody needs afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _ray(address: str | None, threads: int) -> Iterator[None]:
    """Start or join a cluster, and stop or leave it afterwards."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    with tempfile.TemporaryDirectory(prefix="kilonet-", ignore_cleanup_errors=True) as folder:
        try:
            if address is None:
                ray.init(
                    num_cpus=max(threads, cores()),
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=folder,
                    **quiet,
                )
            else:
                _check_address(address)
                ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"no Ray cluster at {address}" if address else "Ray cannot be started"
            raise KilonetError(f"{where}: {' '.join(str(error).split())[:200]}") from None
        try:
            yield
        finally:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Knock at a cluster's door: Ray itself would try for minutes.

    Raises:
        ConnectionError: nobody answers.
        ValueError: it is no address.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ValueError("give HOST:PORT or 'auto'")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConnectionError(error.strerror or str(error)) from None
