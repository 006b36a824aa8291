"""The same networks, batch and data through other libraries, side by side with kilonet's engines in one run.

    pip install '.[peers]'
    python benchmarks/peers.py [--recipes best fast] [--steps 100] [--rounds 3]

Every library trains the networks of `best` and of `fast`, 7,662 parameters each, on the packaged images with SGD and
Nesterov momentum at batch 128, compiled as its own documentation advises, in float32 (kilonet's engines: bfloat16 where
the processor multiplies it); the others without augmentation, kilonet with the recipe's. The others' networks are made
from the layers of the recipe. Each round runs each library in a process of its own; a step's time is the mean over the
steps after the warm-up, an epoch is 468.75 steps. tinygrad needs clang.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.data.datasets import load_data
from kilonet.network.cost import network_cost
from kilonet.network.operations import BatchNorm, Convolution, GlobalAveragePooling, MaxPooling, Operation, ReLU
from kilonet.network.section import ModelSection
from kilonet.recipe import Recipe, load_recipe
from kilonet.utils.environment import processor_name

RECIPES = ("best", "fast")
BATCH = 128
STEPS_AN_EPOCH = 60_000 / BATCH
WARM_UP = 5
RATE, MOMENTUM = 0.1, 0.9

Batches = tuple[NDArray[np.float32], NDArray[np.int64]]
Function = Callable[[Any], Any]
"""An operation of a network in another library, on that library's tensors."""


def batches(steps: int) -> Batches:
    """Return normalised images, float32 (steps, 128, 1, 28, 28), and labels, int64 (steps, 128)."""
    train = load_data("mnist").train
    pixels = train.pixels[: steps * BATCH].numpy().astype(np.float32)
    images: NDArray[np.float32] = ((pixels / 255 - 0.1307) / 0.3081).astype(np.float32)
    return images.reshape(steps, BATCH, 1, 28, 28), train.labels[: steps * BATCH].numpy().reshape(steps, BATCH)


def operations(model: ModelSection) -> list[Operation]:
    """Return the operations of all layers in order."""
    return [operation for placed in model.placed for operation in placed.operations]


def run_layers(model: ModelSection, functions: Iterable[Function], batch: Any) -> Any:
    """Return the output of a network's layers for a batch, with a library's function for each of `operations`."""
    remaining = iter(functions)
    for placed in model.placed:
        output = batch
        for function in islice(remaining, len(placed.operations)):
            output = function(output)
        batch = batch + output if placed.layer.residual else output
    return batch


def check_parameters(model: ModelSection, shapes: Iterable[Sequence[int]]) -> None:
    """Check that the tensors that a library trains have as many elements as the recipe's network has parameters."""
    parameters = sum(map(math.prod, shapes))
    if parameters != model.parameters:
        raise SystemExit(f"the network has {parameters:,} parameters, not {model.parameters:,}")


def seconds_a_step(step: Callable[[int], Any], steps: int) -> float:
    """Time steps, each of which must have finished when it returns."""
    for number in range(WARM_UP):
        step(number % steps)
    start = time.perf_counter()
    for number in range(steps):
        step(number)
    return (time.perf_counter() - start) / steps


def time_kilonet(engine: str, recipe: Recipe, steps: int) -> float:
    """Time an engine of kilonet through its contract."""
    import torch

    from kilonet.data.augment import Batch, draw_transforms
    from kilonet.engines.selection import make_engine, resolve_run
    from kilonet.network.module import initial_network

    recipe = resolve_run(recipe.replace(engine=engine))
    train = load_data("mnist").train
    trained = make_engine(recipe, train, initial_network(recipe.model, 0))
    transforms = draw_transforms(recipe.augment, steps * BATCH, torch.Generator())
    batches = list(Batch(torch.randperm(len(train))[: steps * BATCH], transforms).split(BATCH))
    return seconds_a_step(lambda number: trained.train_batch(batches[number], RATE, number), steps)


def time_jax(recipe: Recipe, steps: int) -> float:
    """Time JAX: one jitted function a step, channels last, state donated."""
    import jax
    import jax.numpy as jnp

    images, labels = batches(steps)
    inputs, targets = jnp.asarray(images.transpose(0, 1, 3, 4, 2)), jnp.asarray(labels)
    of_network = operations(recipe.model)
    keys = jax.random.split(jax.random.PRNGKey(0), len(of_network))
    parameters = [jax_parameters(*pair) for pair in zip(of_network, keys, strict=True)]
    check_parameters(recipe.model, [tensor.shape for tensor in jax.tree.leaves(parameters)])

    def loss(values: Any, batch: Any, wanted: Any) -> Any:
        functions = [partial(jax_operation, *pair) for pair in zip(of_network, values, strict=True)]
        logits = run_layers(recipe.model, functions, batch).reshape(BATCH, recipe.model.classes)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[:, None], 1).mean()

    def update(values: Any, speeds: Any, batch: Any, wanted: Any) -> Any:
        lost, slopes = jax.value_and_grad(loss)(values, batch, wanted)
        speeds = jax.tree.map(lambda speed, slope: MOMENTUM * speed + slope, speeds, slopes)
        moved = jax.tree.map(lambda v, s, g: v - RATE * (g + MOMENTUM * s), values, speeds, slopes)
        return moved, speeds, lost

    compiled = jax.jit(update, donate_argnums=(0, 1))
    state = [parameters, jax.tree.map(jnp.zeros_like, parameters)]

    def step(number: int) -> float:
        state[0], state[1], lost = compiled(*state, inputs[number], targets[number])
        jax.block_until_ready(state)
        return float(lost)

    return seconds_a_step(step, steps)


def jax_parameters(operation: Operation, key: Any) -> Any:
    """Return the initial parameters of an operation: a tensor, a tuple of tensors or none."""
    import jax
    import jax.numpy as jnp

    match operation:
        case Convolution(channels_out=outputs, kernel=kernel):
            inputs = operation.weight_shape[1]
            weight = jax.random.normal(key, (kernel, kernel, inputs, outputs))
            return weight * (2 / (inputs * kernel**2)) ** 0.5
        case BatchNorm(channels):
            return jnp.ones(channels), jnp.zeros(channels)
    return ()


def jax_operation(operation: Operation, values: Any, batch: Any) -> Any:
    """Compute an operation with its parameters on a batch, channels last."""
    import jax

    match operation:
        case Convolution(padding=padding, groups=groups, stride=stride):
            return jax.lax.conv_general_dilated(
                batch,
                values,
                (stride, stride),
                ((padding, padding), (padding, padding)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )
        case ReLU():
            return jax.nn.relu(batch)
        case BatchNorm():
            scale, shift = values
            mean, variance = batch.mean((0, 1, 2)), batch.var((0, 1, 2))
            return (batch - mean) * (scale * jax.lax.rsqrt(variance + 1e-5)) + shift
        case MaxPooling(size):
            window = (1, size, size, 1)
            return jax.lax.reduce_window(batch, -jax.numpy.inf, jax.lax.max, window, window, "VALID")
        case GlobalAveragePooling():
            return batch.mean((1, 2), keepdims=True)
    raise NotImplementedError(operation)


def time_tinygrad(recipe: Recipe, steps: int) -> float:
    """Time tinygrad: one TinyJit function a step."""
    os.environ.setdefault("DEV", "CPU")
    from tinygrad import Context, Tensor, TinyJit, nn

    images, labels = batches(steps)
    inputs = [Tensor(image).realize() for image in images]
    targets = [Tensor(label.astype(np.int32)).realize() for label in labels]
    functions = [tinygrad_function(operation) for operation in operations(recipe.model)]
    optimizer = nn.optim.SGD(nn.state.get_parameters(functions), lr=RATE, momentum=MOMENTUM, nesterov=True)
    check_parameters(recipe.model, [tensor.shape for tensor in optimizer.params])

    def update(batch: Any, wanted: Any) -> Any:
        with Context(TRAINING=1):
            optimizer.zero_grad()
            logits = run_layers(recipe.model, functions, batch).flatten(1)
            loss = logits.sparse_categorical_crossentropy(wanted).backward()
            return loss.realize(*optimizer.schedule_step())

    compiled = TinyJit(update)
    return seconds_a_step(lambda number: compiled(inputs[number], targets[number]).item(), steps)


def tinygrad_function(operation: Operation) -> Any:
    """Return an operation in tinygrad, with its initial parameters."""
    from tinygrad import Tensor, nn

    match operation:
        case Convolution(channels_in, channels_out, kernel, padding, groups, stride):
            return nn.Conv2d(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False)
        case ReLU():
            return Tensor.relu
        case BatchNorm(channels):
            return nn.BatchNorm(channels)
        case MaxPooling(size):
            return lambda batch: batch.max_pool2d(size)
        case GlobalAveragePooling():
            return lambda batch: batch.mean((2, 3), keepdim=True)
    raise NotImplementedError(operation)


def time_keras(recipe: Recipe, steps: int) -> float:
    """Time Keras on JAX: a compiled training step, channels last."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    images, labels = batches(steps)
    inputs = images.transpose(0, 1, 3, 4, 2)
    pixels = keras.Input((28, 28, 1))
    maps = run_layers(recipe.model, map(keras_layer, operations(recipe.model)), pixels)
    network = keras.Model(pixels, keras.layers.Flatten()(maps))
    check_parameters(recipe.model, [variable.shape for variable in network.trainable_variables])
    optimizer = keras.optimizers.SGD(RATE, MOMENTUM, nesterov=True)
    network.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=True)
    return seconds_a_step(lambda number: network.train_on_batch(inputs[number], labels[number]), steps)


def keras_layer(operation: Operation) -> Any:
    """Return an operation as a layer of Keras, whose `same` is a recipe's where the stride is 1."""
    from keras import layers

    match operation:
        case Convolution(channels_out=channels, kernel=kernel, padding=padding, groups=groups, stride=stride):
            edges = "same" if padding else "valid"
            return layers.Conv2D(channels, kernel, stride, edges, groups=groups, use_bias=False)
        case ReLU():
            return layers.ReLU()
        case BatchNorm():
            return layers.BatchNormalization(epsilon=1e-5)
        case MaxPooling(size):
            return layers.MaxPooling2D(size)
        case GlobalAveragePooling():
            return layers.GlobalAveragePooling2D(keepdims=True)
    raise NotImplementedError(operation)


PEERS: Mapping[str, tuple[Callable[[Recipe, int], float], tuple[str, ...]]] = {
    "kilonet native": (partial(time_kilonet, "native"), ("kilonet",)),
    "kilonet torch": (partial(time_kilonet, "torch"), ("torch",)),
    "JAX, jit": (time_jax, ("jax",)),
    "Keras on JAX": (time_keras, ("keras", "jax")),
    "tinygrad, TinyJit": (time_tinygrad, ("tinygrad",)),
}


def main() -> None:
    """Run the rounds and print a table a recipe; with --one, time one library and print its seconds a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=list(PEERS), help="time one library with the first of the recipes")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(PEERS[options.one][0](load_recipe(options.recipes[0]), options.steps)))
        return
    installed = [name for name, (_, needs) in PEERS.items() if all(map(importlib.util.find_spec, needs))]
    print(f"{processor_name()}, {os.cpu_count()} cores, {options.rounds} rounds of {options.steps} steps")
    for recipe in options.recipes:
        seconds: dict[str, list[float]] = {name: [] for name in installed}
        for _ in range(options.rounds):
            for name in installed:
                seconds[name].append(_time_apart(name, recipe, options.steps))
                print(f"{recipe}: {name}: {1000 * seconds[name][-1]:.1f} ms a step", file=sys.stderr, flush=True)
        cost = network_cost(load_recipe(recipe).model)
        print(f"\nNetwork of `{recipe}`, {cost.parameters:,} parameters, {cost.macs:,} MACs:\n")
        print(_table(seconds), flush=True)
    for name in PEERS.keys() - set(installed):
        print(f"\n{name}: not installed")


def _time_apart(name: str, recipe: str, steps: int) -> float:
    command = [sys.executable, __file__, "--one", name, "--recipes", recipe, "--steps", str(steps)]
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
