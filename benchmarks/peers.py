"""The same network, batch and data through other libraries, side by side with kilonet's engines in one run.

    pip install '.[peers]'
    python benchmarks/peers.py [--steps 100] [--rounds 3]

Every library trains the 7,662-parameter network of `fast` on the packaged images with SGD and Nesterov momentum at
batch 128, compiled as its own documentation advises, in float32 (kilonet's torch engine: bfloat16 where the processor
has it); the others without augmentation, kilonet with it. Each round runs each library in a process of its own; a
step's time is the mean over the steps after the warm-up, an epoch is 468.75 steps. tinygrad needs clang.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.data.datasets import load_data
from kilonet.utils.environment import processor_name

BATCH = 128
STEPS_AN_EPOCH = 60_000 / BATCH
WARM_UP = 5
RATE, MOMENTUM = 0.1, 0.9
CHANNELS = ((1, 10, 3), (10, 20, 3), (20, 10, 1), (10, 10, 3), (10, 16, 3), (16, 20, 3), (20, 10, 1))

Batches = tuple[NDArray[np.float32], NDArray[np.int64]]


def batches(steps: int) -> Batches:
    """Return normalised images, float32 (steps, 128, 1, 28, 28), and labels, int64 (steps, 128)."""
    train = load_data("mnist").train
    pixels = train.pixels[: steps * BATCH].numpy().astype(np.float32)
    images: NDArray[np.float32] = ((pixels / 255 - 0.1307) / 0.3081).astype(np.float32)
    return images.reshape(steps, BATCH, 1, 28, 28), train.labels[: steps * BATCH].numpy().reshape(steps, BATCH)


def seconds_a_step(step: Callable[[int], Any], steps: int) -> float:
    """Time steps, each of which must have finished when it returns."""
    for number in range(WARM_UP):
        step(number % steps)
    start = time.perf_counter()
    for number in range(steps):
        step(number)
    return (time.perf_counter() - start) / steps


def time_kilonet(engine: str, steps: int) -> float:
    """Time an engine of kilonet through its contract."""
    import torch

    from kilonet.data.augment import Batch, draw_transforms
    from kilonet.engines.selection import make_engine, resolve_run
    from kilonet.network.module import initial_network
    from kilonet.recipe import load_recipe

    recipe = resolve_run(load_recipe("fast").replace(engine=engine))
    train = load_data("mnist").train
    trained = make_engine(recipe, train, initial_network(recipe.model, 0))
    transforms = draw_transforms(recipe.augment, steps * BATCH, torch.Generator())
    batches = list(Batch(torch.randperm(len(train))[: steps * BATCH], transforms).split(BATCH))
    return seconds_a_step(lambda number: trained.train_batch(batches[number], RATE, number), steps)


def time_jax(steps: int) -> float:
    """Time JAX: one jitted function a step, channels last, state donated."""
    import jax
    import jax.numpy as jnp

    images, labels = batches(steps)
    inputs, targets = jnp.asarray(images.transpose(0, 1, 3, 4, 2)), jnp.asarray(labels)
    keys = jax.random.split(jax.random.PRNGKey(0), len(CHANNELS))
    weights = [
        jax.random.normal(key, (side, side, before, after)) * (2 / (before * side * side)) ** 0.5
        for key, (before, after, side) in zip(keys, CHANNELS, strict=True)
    ]
    normed = [index for index, (_, _, side) in enumerate(CHANNELS) if side == 3]
    parameters = {
        "weights": weights,
        "norms": {i: (jnp.ones(CHANNELS[i][1]), jnp.zeros(CHANNELS[i][1])) for i in normed},
    }

    def loss(values: Any, batch: Any, wanted: Any) -> Any:
        for index, weight in enumerate(values["weights"]):
            batch = batch.mean((1, 2), keepdims=True) if index == len(CHANNELS) - 1 else batch
            shape = ("NHWC", "HWIO", "NHWC")
            batch = jax.lax.conv_general_dilated(batch, weight, (1, 1), "VALID", dimension_numbers=shape)
            if index in values["norms"]:
                scale, shift = values["norms"][index]
                batch = jax.nn.relu(batch)
                mean, variance = batch.mean((0, 1, 2)), batch.var((0, 1, 2))
                batch = (batch - mean) * (scale * jax.lax.rsqrt(variance + 1e-5)) + shift
            if index == 2:
                batch = jax.lax.reduce_window(batch, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        logits = batch.reshape(BATCH, 10)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[:, None], 1).mean()

    def update(values: Any, speeds: Any, batch: Any, wanted: Any) -> Any:
        slopes = jax.grad(loss)(values, batch, wanted)
        speeds = jax.tree.map(lambda speed, slope: MOMENTUM * speed + slope, speeds, slopes)
        moved = jax.tree.map(lambda v, s, g: v - RATE * (g + MOMENTUM * s), values, speeds, slopes)
        return moved, speeds

    compiled = jax.jit(update, donate_argnums=(0, 1))
    state = [parameters, jax.tree.map(jnp.zeros_like, parameters)]

    def step(number: int) -> None:
        state[:] = compiled(*state, inputs[number], targets[number])
        jax.block_until_ready(state)

    return seconds_a_step(step, steps)


def time_tinygrad(steps: int) -> float:
    """Time tinygrad: one TinyJit function a step."""
    os.environ.setdefault("DEV", "CPU")
    from tinygrad import Context, Tensor, TinyJit, nn

    images, labels = batches(steps)
    inputs = [Tensor(image).realize() for image in images]
    targets = [Tensor(label.astype(np.int32)).realize() for label in labels]
    convolutions = [nn.Conv2d(before, after, side, bias=False) for before, after, side in CHANNELS]
    norms = {index: nn.BatchNorm(after) for index, (_, after, side) in enumerate(CHANNELS) if side == 3}
    trained = nn.state.get_parameters([convolutions, list(norms.values())])
    optimizer = nn.optim.SGD(trained, lr=RATE, momentum=MOMENTUM, nesterov=True)

    def forward(batch: Any) -> Any:
        for index, convolution in enumerate(convolutions):
            batch = batch.mean((2, 3), keepdim=True) if index == len(CHANNELS) - 1 else batch
            batch = convolution(batch)
            batch = norms[index](batch.relu()) if index in norms else batch
            batch = batch.max_pool2d(2) if index == 2 else batch
        return batch.flatten(1)

    def update(batch: Any, wanted: Any) -> Any:
        with Context(TRAINING=1):
            optimizer.zero_grad()
            loss = forward(batch).sparse_categorical_crossentropy(wanted).backward()
            return loss.realize(*optimizer.schedule_step())

    compiled = TinyJit(update)
    return seconds_a_step(lambda number: compiled(inputs[number], targets[number]).numpy(), steps)


def time_keras(steps: int) -> float:
    """Time Keras on JAX: a compiled training step, channels last."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    images, labels = batches(steps)
    inputs = images.transpose(0, 1, 3, 4, 2)
    network = keras.Sequential([keras.Input((28, 28, 1))])
    for index, (_, after, side) in enumerate(CHANNELS):
        if index == len(CHANNELS) - 1:
            network.add(keras.layers.GlobalAveragePooling2D(keepdims=True))
        network.add(keras.layers.Conv2D(after, side, use_bias=False, activation="relu" if side == 3 else None))
        if side == 3:
            network.add(keras.layers.BatchNormalization())
        if index == 2:
            network.add(keras.layers.MaxPooling2D(2))
    network.add(keras.layers.Flatten())
    optimizer = keras.optimizers.SGD(RATE, MOMENTUM, nesterov=True)
    network.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=True)
    return seconds_a_step(lambda number: network.train_on_batch(inputs[number], labels[number]), steps)


PEERS: dict[str, tuple[Callable[[int], float], tuple[str, ...]]] = {
    "kilonet native": (lambda steps: time_kilonet("native", steps), ("kilonet",)),
    "kilonet torch": (lambda steps: time_kilonet("torch", steps), ("torch",)),
    "JAX, jit": (time_jax, ("jax",)),
    "Keras on JAX": (time_keras, ("keras", "jax")),
    "tinygrad, TinyJit": (time_tinygrad, ("tinygrad",)),
}


def main() -> None:
    """Run the rounds and print the table; with --one, time one library and print its seconds a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=list(PEERS))
    options = parser.parse_args()
    if options.one:
        print(json.dumps(PEERS[options.one][0](options.steps)))
        return
    installed = [name for name, (_, needs) in PEERS.items() if all(map(importlib.util.find_spec, needs))]
    seconds: dict[str, list[float]] = {name: [] for name in installed}
    for _ in range(options.rounds):
        for name in installed:
            seconds[name].append(_time_apart(name, options.steps))
            print(f"{name}: {1000 * seconds[name][-1]:.1f} ms a step", file=sys.stderr, flush=True)
    print(f"{processor_name()}, {os.cpu_count()} cores, {options.rounds} rounds of {options.steps} steps\n")
    print(_table(seconds))
    for name in PEERS.keys() - set(installed):
        print(f"\n{name}: not installed")


def _time_apart(name: str, steps: int) -> float:
    command = [sys.executable, __file__, "--one", name, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def _table(seconds: dict[str, list[float]]) -> str:
    ours = seconds["kilonet native"]
    lines = [
        "| library | version | ms a step (min to max) | seconds an epoch | against native |",
        "|---|---|---:|---:|---:|",
    ]
    for name, values in seconds.items():
        versions = ", ".join(f"{need} {importlib.metadata.version(need)}" for need in PEERS[name][1])
        middle = statistics.median(values)
        ratio = statistics.median(other / own for other, own in zip(values, ours, strict=True))
        spread = f"{1000 * middle:.1f} ({1000 * min(values):.1f} to {1000 * max(values):.1f})"
        lines.append(f"| {name} | {versions} | {spread} | {middle * STEPS_AN_EPOCH:.1f} | {ratio:.1f} x |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
