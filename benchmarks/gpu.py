"""Training on a GPU: `best` whole, its bits, a profile of its step, an epoch of every recipe.

    python benchmarks/gpu.py [--parts best bits profile recipes compile] > docs/results/gpu.md

Prints Markdown, in under four minutes on an NVIDIA H100. It needs no network, and a C compiler for the part `compile`
only, which says so without one. A part that fails prints its error and the others go on; when the time is up, what may
follow is left out. Either makes the exit status 1. `--quick` takes few images and epochs, to see on a processor
(`--device cpu`) that every part runs; its figures say nothing, and it has no limit of time.
"""

import argparse
import contextlib
import math
import platform
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity

from kilonet.data.augment import Batch
from kilonet.data.datasets import Images, load_data
from kilonet.engines.contract import Engine
from kilonet.engines.selection import make_engine, resolve_run
from kilonet.models.model import Model
from kilonet.network.module import initial_network
from kilonet.network.section import ModelSection
from kilonet.recipe import Recipe, load_recipe, packaged_recipes
from kilonet.training.progress import NoProgress
from kilonet.training.run_folder import read_run
from kilonet.training.train import draw_epoch, fit, resume
from kilonet.utils.capacity import cores
from kilonet.utils.environment import processor_name
from kilonet.utils.errors import KilonetError
from peak import run

LIMIT_SECONDS = 200
MADE_IMAGES = 50_000
QUICK_IMAGES = 128
PRECISIONS = ("float32", "bfloat16")
WARM_UP_STEPS = 20
PROFILED_STEPS = 20
STEPS_BETWEEN_TOTALS = 50
"""As in training, which reads the loss so often."""
SHOWN_KERNELS = 10


@dataclass(frozen=True)
class Bench:
    """Where and on what is measured."""

    device: str
    quick: bool
    folder: Path
    """For files, and empty at first."""

    def recipe(self, name: str, **changes: object) -> Recipe:
        """Return a packaged recipe for the torch engine on the device, or on one thread of a processor."""
        return load_recipe(name, {"device": self.device, "engine": "torch", "threads": 1, **changes})

    @property
    def few(self) -> str:
        """A file with the first of MNIST's images, as a source of data."""
        path = self.folder / "few.npz"
        if not path.exists():
            mnist, count = load_data("mnist"), QUICK_IMAGES if self.quick else 10_000
            x_train, y_train = mnist.train.pixels[:count, 0].numpy(), mnist.train.labels[:count].numpy()
            x_test, y_test = mnist.test.pixels[:count, 0].numpy(), mnist.test.labels[:count].numpy()
            np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
        return str(path)

    @property
    def mnist(self) -> str:
        """MNIST as a source of data."""
        return self.few if self.quick else "mnist"

    def images(self, model: ModelSection) -> Images:
        """Return training images for a network: MNIST's, or made ones for another input."""
        if model.input_shape == (1, 28, 28):
            return load_data(self.mnist).train
        count = QUICK_IMAGES if self.quick else MADE_IMAGES
        pixels = torch.randint(256, (count, *model.input_shape), dtype=torch.uint8)
        return Images(pixels, torch.arange(count) % model.classes)


def make(recipe: Recipe, images: Images) -> Engine:
    """Return the engine of a resolved recipe; its teachers are untrained, and take as long as trained ones."""
    sections = [load_recipe(name).model for name in recipe.distill.teacher] * recipe.distill.teachers
    teachers = [Model(section, initial_network(section, 0).state()) for section in sections]
    return make_engine(recipe, images, initial_network(recipe.model, 0), teachers)


def epoch_of(recipe: Recipe, images: Images, engine: Engine) -> list[Batch]:
    return list(draw_epoch(recipe, images.labels, 0, engine.device).split(recipe.train.batch_size))


def train(engine: Engine, batches: Sequence[Batch]) -> None:
    """Train steps, and wait for their end."""
    for step, batch in enumerate(batches, 1):
        engine.train_batch(batch, 0.01, step)
        if step % STEPS_BETWEEN_TOTALS == 0 or step == len(batches):
            engine.take_totals()


def times(recipe: Recipe, images: Images) -> tuple[float, float, float]:
    """Return the seconds until a step is recorded, those of an epoch after that, and the microseconds of a step."""
    start = time.perf_counter()
    recipe = resolve_run(recipe)
    engine = make(recipe, images)
    train(engine, epoch_of(recipe, images, engine)[-WARM_UP_STEPS:])
    recorded = time.perf_counter()
    train(engine, epoch_of(recipe, images, engine))
    seconds = time.perf_counter() - recorded
    return recorded - start, seconds, 1e6 * seconds / math.ceil(len(images) / recipe.train.batch_size)


def best(bench: Bench) -> Iterator[str]:
    """Train `best` as a person does, in a process of its own."""
    folder = bench.folder / "best"
    words = f"train best --device {bench.device} --engine torch --threads 1".split()
    words += ["--epochs", "2"] if bench.quick else []
    start = time.perf_counter()
    run([sys.executable, "-m", "kilonet", *words, "--data", bench.mnist, "--out", str(folder)])
    seconds = time.perf_counter() - start
    done = read_run(folder)
    first, *others = (metrics.seconds for metrics in done.history)
    final, scored = done.result.final.test_accuracy, done.result.scored_images
    yield f"`kilonet train best --device {bench.device}`, seed 0, {done.result.environment.precision}:"
    yield f"{100 * final:.2f} % of {scored:,} test images after {len(done.history)} epochs;"
    yield f"{done.result.seconds:.1f} s of training (first epoch {first:.2f} s, median of the others"
    yield f"{statistics.median(others):.2f} s); {seconds:.1f} s for the whole command."


class InterruptedAfterAnEpoch(NoProgress):
    """Interrupts a run as Ctrl-C does."""

    def epoch_started(self, epoch: int, steps: int) -> None:
        super().epoch_started(epoch, steps)
        if epoch == 1:
            raise KeyboardInterrupt


def bits(bench: Bench) -> Iterator[str]:
    """Train `best` twice, and once with a break; show the hashes of the models."""
    yield "| two epochs of `best`, few images | SHA-256 of the model | once more | interrupted and resumed |"
    yield "|---|---|---|---|"
    for precision in PRECISIONS:
        recipe, folder = bench.recipe("best", data=bench.few, epochs=2, precision=precision), bench.folder / precision
        whole = [fit(recipe), fit(recipe)]
        with contextlib.suppress(KeyboardInterrupt):
            fit(recipe, out=folder, progress=InterruptedAfterAnEpoch())
        hashes = [one.result.model_sha256 for one in (*whole, resume(folder))]
        yield f"| {precision} | {' | '.join(f'`{one[:16]}`' for one in hashes)} |"
        if len(set(hashes)) > 1:
            raise KilonetError(f"the bits differ in {precision}")


def profile(bench: Bench) -> Iterator[str]:
    """Show the kernels of a recorded step of `best`; on a processor, the operations of a step."""
    recipe, on_gpu = resolve_run(bench.recipe("best")), bench.device == "cuda"
    images = bench.images(recipe.model)
    engine = make(recipe, images)
    batches = [batch for batch in epoch_of(recipe, images, engine) if len(batch) == recipe.train.batch_size]
    profiled = batches[:PROFILED_STEPS]
    train(engine, profiled)
    start = time.perf_counter()
    train(engine, batches)
    step = 1e6 * (time.perf_counter() - start) / len(batches)
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profiler:
        train(engine, profiled)
    launches: Counter[str] = Counter()
    microseconds: dict[str, float] = {}
    for event in profiler.events() or []:
        # The wait for the device is listed, too.
        if on_gpu and (event.device_type.name != "CUDA" or event.name == "Context Sync"):
            continue
        name, taken = short_name(event.name), event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
        launches[name] += 1
        microseconds[name] = microseconds.get(name, 0.0) + taken / len(profiled)
    if not microseconds:
        raise KilonetError("the profiler saw no kernel")
    yield from kernel_table(microseconds, {name: count / len(profiled) for name, count in launches.items()}, step)


def short_name(kernel: str) -> str:
    """Return the start of a kernel's name, without words that many have."""
    for common in ("void ", "at::native::", "(anonymous namespace)::"):
        kernel = kernel.replace(common, "")
    return kernel.replace("|", " ")[:70]


def kernel_table(microseconds: Mapping[str, float], launches: Mapping[str, float], step: float) -> list[str]:
    """Return a table of the kernels that take longest, all figures a step; `step` is its microseconds by the clock."""
    total = sum(microseconds.values())
    ordered = sorted(microseconds, key=lambda name: -microseconds[name])
    others = ordered[SHOWN_KERNELS:]
    rows = [(f"`{name}`", launches[name], microseconds[name]) for name in ordered[:SHOWN_KERNELS]]
    rows.append(("others", sum(launches[name] for name in others), sum(microseconds[name] for name in others)))
    return [
        f"{step:.0f} us by the clock; its {sum(launches.values()):.0f} kernels take {total:.0f} us.",
        "",
        "| kernel | launches | us | share |",
        "|---|---:|---:|---:|",
        *(f"| {name} | {count:.1f} | {taken:.1f} | {100 * taken / total:.0f} % |" for name, count, taken in rows),
    ]


def recipes(bench: Bench) -> Iterator[str]:
    """Time an epoch of every packaged recipe, in both precisions."""
    yield "An epoch after the step was recorded, with drawing its order and its changes. Recipes for photos are given"
    yield f"{MADE_IMAGES:,} made images, the others MNIST's; teachers are untrained.\n"
    heads = "".join(f" {precision}: s an epoch | us a step |" for precision in PRECISIONS)
    yield f"| recipe | parameters | batch | images |{heads}\n|---|---:|---:|---:|---:|---:|---:|---:|"
    for name in packaged_recipes():
        recipe = bench.recipe(name)
        images = bench.images(recipe.model)
        row = f"| `{name}` | {recipe.model.parameters:,} | {recipe.train.batch_size} | {len(images):,} |"
        for precision in PRECISIONS:
            _, seconds, step = times(recipe.replace(precision=precision), images)
            row += f" {seconds:.2f} | {step:.0f} |"
        yield row


def compiled(bench: Bench) -> Iterator[str]:
    """Time an epoch of `best` with `--compile`."""
    if bench.device != "cuda" or not (shutil.which("gcc") or shutil.which("clang")):
        yield "Left out: it takes an NVIDIA GPU, and a C compiler, which Triton calls."
        return
    recipe = bench.recipe("best", compile=True)
    before, seconds, step = times(recipe, bench.images(recipe.model))
    yield f"`best`, float32: {seconds:.2f} s an epoch, {step:.0f} us a step, after {before:.0f} s of compiling."


PARTS: Mapping[str, tuple[str, Callable[[Bench], Iterator[str]]]] = {
    "best": ("A whole run", best),
    "bits": ("The same bits", bits),
    "profile": ("A step of `best`, float32", profile),
    "recipes": ("Every recipe", recipes),
    "compile": ("`--compile`", compiled),
}


def shown(title: str, lines: Iterator[str], until: float) -> bool:
    """Print a part, each line as it comes; return whether it did not fail and came to its end in time.

    Args:
        title: the heading of the part.
        lines: computed as they are asked for.
        until: what `time.perf_counter` returns when the time is up.
    """
    print(f"\n## {title}\n", flush=True)
    try:
        while time.perf_counter() < until:
            if (line := next(lines, None)) is None:
                return True
            print(line, flush=True)
        problem = f"{LIMIT_SECONDS} s are over, what may follow is left out"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the other parts go on
        traceback.print_exc()
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    print(f"\nFailed: {problem}", flush=True)
    return False


def main(words: Sequence[str] | None = None) -> int:
    """Measure the parts and print them; return the exit status."""
    begun = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="few images and epochs")
    options = parser.parse_args(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no NVIDIA GPU here")
    name = torch.cuda.get_device_name() if options.device == "cuda" else processor_name()
    print(f"{name}, {cores()} cores, torch {torch.__version__}, Python {platform.python_version()}", flush=True)
    passed, spent = True, []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.device, options.quick, Path(folder))
        until = math.inf if options.quick else begun + LIMIT_SECONDS
        for part in options.parts:
            start = time.perf_counter()
            title, measure = PARTS[part]
            passed &= shown(title, measure(bench), until)
            spent.append(f"{part} {time.perf_counter() - start:.0f}")
            print(f"{spent[-1]} s", file=sys.stderr)
    print(f"\nSeconds: {', '.join(spent)}; in all {time.perf_counter() - begun:.0f}.")
    return int(not passed)


if __name__ == "__main__":
    raise SystemExit(main())
