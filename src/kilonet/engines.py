"""Choosing what computes: makes every `auto` of a recipe definite, and builds the engine."""

import torch

from kilonet.datasets import Images
from kilonet.engine import Engine
from kilonet.errors import KilonetError
from kilonet.network import Network
from kilonet.progress import Progress
from kilonet.recipe import Recipe, RunSection
from kilonet.torch_engine import TorchEngine


def resolve_run(recipe: Recipe, progress: Progress) -> Recipe:
    """Return the recipe with engine, device, precision and threads definite.

    Raises:
        KilonetError: the recipe asks for a device or an engine that this machine does not have.
    """
    run = recipe.run
    device = _resolve_device(run.device)
    engine = "torch"
    threads = run.threads or torch.get_num_threads()
    precision = _resolve_precision(run, device)
    return recipe.replace(device=device, engine=engine, threads=threads, precision=precision)


def make_engine(recipe: Recipe, images: Images, network: Network) -> Engine:
    """Build the engine of a resolved recipe, which takes over the network."""
    return TorchEngine(recipe, images, network)


def _resolve_device(device: str) -> str:
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return "cuda" if available["cuda"] else "cpu"
    if not available[device]:
        raise KilonetError(f"this machine or this torch has no {device} device; use --device cpu")
    return device


def _resolve_precision(run: RunSection, device: str) -> str:
    if run.precision != "auto":
        return run.precision
    fast = device == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
    return "bfloat16" if fast else "float32"
