"""Chooses what computes a run: replaces every `auto` of a recipe, and builds the engine."""

from collections.abc import Callable, Sequence

import torch

from kilonet.data.datasets import Images
from kilonet.engines.contract import Engine
from kilonet.engines.native import NativeEngine, multiplies_bfloat16, native_unavailable_reason
from kilonet.engines.torch_engine import TorchEngine
from kilonet.models.model import Model
from kilonet.network.module import Network
from kilonet.recipe import Recipe, RunSection
from kilonet.utils.capacity import cores
from kilonet.utils.errors import KilonetError


def resolve_run(recipe: Recipe, report: Callable[[str], None] = lambda _: None) -> Recipe:
    """Return the recipe with a definite engine, device, precision and number of threads.

    Args:
        recipe: the recipe, whose `run` section may say `auto`.
        report: gets one line if the torch engine replaces the native one, or if threads are left out.

    Raises:
        KilonetError: the recipe asks for a device or an engine that this machine does not have.
    """
    device = resolve_device(recipe.run)
    _check_compile(recipe, device)
    recipe = recipe.replace(device=device, precision=_resolve_precision(recipe.run, device))
    engine = _resolve_engine(recipe, report)
    return recipe.replace(engine=engine, threads=_resolve_threads(recipe.run, report))


def make_engine(recipe: Recipe, images: Images, network: Network, teachers: Sequence[Model] = ()) -> Engine:
    """Build the engine of a resolved recipe.

    Args:
        recipe: the recipe, without `auto`.
        images: the training images.
        network: the network with its initial weights; the engine may change it.
        teachers: trained networks with the same input and classes, used as the recipe's `distill` section says.
    """
    if recipe.run.engine == "native":
        return NativeEngine(
            recipe, images.pixels, images.labels, network.state(), recipe.run.threads, teachers=teachers
        )
    return TorchEngine(recipe, images, network, teachers)


def _resolve_threads(run: RunSection, report: Callable[[str], None]) -> int:
    """Return the number of threads: at most one for each core, as more of them wait for one another without end."""
    available = cores()
    if run.threads > available:
        report(f"using {available} threads, one for each core that this process may use, not {run.threads}")
        return available
    # Torch's own number heeds OMP_NUM_THREADS, and counts a core that runs two threads once.
    return run.threads or min(torch.get_num_threads(), available)


def resolve_device(run: RunSection) -> str:
    """Return the device that computes a run, never `auto`.

    `auto` is an NVIDIA GPU where torch sees one, unless the run asks for the native engine, and else the CPU.

    Raises:
        KilonetError: the run asks for a device that this machine does not have.
    """
    if run.device == "auto":
        return "cuda" if torch.cuda.is_available() and run.engine != "native" else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[run.device]:
        raise KilonetError(f"this machine or this torch has no {run.device} device; use --device cpu")
    return run.device


def _check_compile(recipe: Recipe, device: str) -> None:
    if recipe.run.compile and device != "cuda":
        raise KilonetError(f"--compile is for an NVIDIA GPU, and this run computes on {device}; leave it out")
    if recipe.run.compile and recipe.model.dropout:
        raise KilonetError("--compile cannot repeat the random numbers of dropout; use --no-compile or --dropout 0")


def _resolve_precision(run: RunSection, device: str) -> str:
    """Return `bfloat16` if the processor multiplies it, twice as fast; the accuracy is the same (docs/LOG.md)."""
    if run.precision != "auto":
        return run.precision
    return "bfloat16" if device == "cpu" and multiplies_bfloat16() else "float32"


def _resolve_engine(recipe: Recipe, report: Callable[[str], None]) -> str:
    """Return `native` if the native engine can train the recipe; report the reason if `auto` falls back to `torch`."""
    requested, on_cpu = recipe.run.engine, recipe.run.device == "cpu"
    if requested == "torch" or (requested == "auto" and not on_cpu):
        return "torch"
    reason = native_unavailable_reason(recipe) if on_cpu else "it computes on the CPU only"
    if reason is None:
        return "native"
    if requested == "native":
        raise KilonetError(f"the native engine cannot be used: {reason}")
    report(f"using the torch engine, as the native one cannot be used: {reason}")
    return "torch"
