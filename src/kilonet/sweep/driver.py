"""Runs a sweep: starts or joins Ray, runs Tune, and cleans up."""

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import optuna
import ray
from ray import tune

from kilonet.sweep import worker
from kilonet.sweep.live_table import LiveTable
from kilonet.sweep.pareto import ParetoFront
from kilonet.sweep.plan import Plan
from kilonet.sweep.sampler import CandidateSampler
from kilonet.sweep.scheduler import SizeGroupedASHA
from kilonet.sweep.trials import Trials
from kilonet.training.progress import progress_on
from kilonet.training.run_folder import lock_folder
from kilonet.training.train import prepare_data, prepare_teachers
from kilonet.utils.capacity import cores
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import make_folder

_OBJECT_STORE_BYTES = 100 << 20
_DRAWS_TO_CHECK = 50
"""How often a candidate is drawn to check the data with."""
_MAX_FAILURES = 5
"""How often a trial may lose its worker."""
_HEAD_ANSWERS_SECONDS = 60


def run(plan: Plan, address: str | None) -> ParetoFront:
    """Start or continue a sweep, run it to its last trial, and return its Pareto front.

    Args:
        plan: the search.
        address: the address of a Ray cluster to join; None starts a local one.

    Raises:
        KilonetError: the sweep's folder belongs to another plan or is in use, there is no such cluster, or trials
            failed.
    """
    # Before the lock, whose file would otherwise lie in a folder of something else.
    Trials(plan).check()
    trials = Trials(plan)
    make_folder(trials.folder)
    lock = lock_folder(trials.folder)
    try:
        trials.begin()
        missing = plan.search.trials - sum(map(trials.is_done, trials.records))
        if missing > 0:
            _search(plan, trials, address, missing)
    finally:
        lock.release()
    return ParetoFront.of(trials)


def _search(plan: Plan, trials: Trials, address: str | None, missing: int) -> None:
    sampler = CandidateSampler(plan, trials)
    scheduler = SizeGroupedASHA(plan.search)
    scheduler.replay(trials, sampler.costs)
    _check_data(plan)
    with (
        # Ray prints the whole log of a lost node to stdout; LiveTable has a line for each trial that goes on elsewhere.
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        _ray(address, plan.base.run.threads),
        _scratch(trials.folder / ".tune") as scratch,
        LiveTable(trials) as table,
    ):
        # Not before there is a Ray to train the trials with.
        _prepare_teachers(plan, trials.folder)
        trainable = tune.with_resources(worker.train, _resources(plan, ray.cluster_resources()))
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=sampler, scheduler=scheduler, num_samples=missing, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                callbacks=[table],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=_MAX_FAILURES),
            ),
        )
        _run_all(tuner)
    if not trials.records:
        raise KilonetError(sampler.exhausted)
    if sampler.exhausted:
        print(f"the search ends here: {sampler.exhausted}", file=sys.stderr)
    if sampler.failures:
        count = len(sampler.failures)
        raise KilonetError(
            f"trials that could not be trained: {count}, first {sampler.failures[0]}; then the same command tries again"
        )


def _check_data(plan: Plan) -> None:
    """Check that the data fit a candidate, before Ray takes seconds to start.

    The trials then find pictures in the cache, and what was left out of them is said: a worker's words reach nobody.

    Raises:
        KilonetError: they do not, or are not there.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(plan.search.seed))
    for _ in range(_DRAWS_TO_CHECK):
        try:
            candidate = plan.candidate(study.ask())
        except KilonetError:
            continue  # It does not fit together, or into the budget. If none does, the sampler says why.
        prepare_data(candidate)
        return


def _prepare_teachers(plan: Plan, folder: Path) -> None:
    """Train the base recipe's teachers once for all trials, with all cores."""
    if plan.base.distill.teacher:
        prepare_teachers(plan.base.replace(threads=0), folder, progress_on())


def _run_all(tuner: tune.Tuner) -> None:
    try:
        tuner.fit()
    except (tune.TuneError, ray.exceptions.RayError) as error:
        last = str(error).strip().splitlines()[-1]
        raise KilonetError(f"Ray failed: {last}; the same command continues the sweep") from None


def _resources(plan: Plan, cluster: dict[str, float]) -> dict[str, float]:
    """Return the resources of a trial: a core for each of its threads, and its share of a GPU if it asks for one."""
    run = plan.base.run
    gpus = plan.search.gpus if run.device == "cuda" and cluster.get("GPU") else 0
    return {"cpu": run.threads, "gpu": gpus}


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[str]:
    """Yield an empty folder for Tune's own files, visible to all machines, and delete it afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _ray(address: str | None, threads: int) -> Iterator[None]:
    """Start or join a Ray cluster, and stop or leave it afterwards."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    with contextlib.ExitStack() as stack:
        try:
            if address is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kilonet-", ignore_cleanup_errors=True))
                _use_own_token(Path(folder))
                stack.callback(ray.shutdown)
                ray.init(
                    num_cpus=max(threads, cores()),
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    # Ray lets everyone write to its own folder; nobody else enters the one around it.
                    _temp_dir=str(Path(folder) / "ray"),
                    **quiet,
                )
            else:
                _check_address(address)
                _check_token()
                stack.callback(ray.shutdown)
                ray.init(address=address, **quiet)
                _check_cluster_asks_for_tokens(address)
        except KilonetError:
            raise
        except Exception as error:  # noqa: BLE001 - Ray raises all kinds when a process of its own does not start
            where = f"cannot join the Ray cluster at {address}" if address else "Ray cannot be started"
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise KilonetError(f"{where}: {reason}") from None
        yield


@cache
def _own_token() -> str:
    """Return the token of the clusters that this process starts: Ray reads a token once in a process."""
    return secrets.token_hex(32)


def _use_own_token(folder: Path) -> None:
    """Write the token of a cluster of one's own, readable by this user alone, and point Ray to it."""
    path = folder / "token"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(_own_token())
    os.environ.pop("RAY_AUTH_TOKEN", None)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _check_token() -> None:
    """Check that there is a token to join a cluster with, and that no other user can read it.

    Raises:
        KilonetError: there is none, or others can read it.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.is_file():
        raise KilonetError(f"{path}: no such file; copy the token of the Ray cluster's head to it, see docs/SWEEP.md")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise KilonetError(f"{path}: other users can read this token of a Ray cluster; run: chmod 600 {path}")


def _check_cluster_asks_for_tokens(address: str) -> None:
    """Check that the head of the cluster was started with token authentication.

    Raises:
        KilonetError: everyone who can connect to the cluster can run code on it.
    """
    # A task that takes no core, on the head: a cluster without tokens answers one who shows a token just as well.
    on_head = ray.remote(os.getenv).options(num_cpus=0, resources={"node:__internal_head__": 0.001})
    if ray.get(on_head.remote("RAY_AUTH_MODE"), timeout=_HEAD_ANSWERS_SECONDS) != "token":
        raise KilonetError(
            f"the Ray cluster at {address} asks for no token, so everyone who can connect to it can run code on it; "
            "start it anew with RAY_AUTH_MODE=token, see docs/SWEEP.md"
        )


def _check_address(address: str) -> None:
    """Check that a cluster's address can be connected to; Ray itself would retry for minutes.

    Raises:
        ConnectionError: the connection fails.
        ValueError: the text is not an address.
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
