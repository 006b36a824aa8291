"""Random small networks of every layer kind, with weights and batch-norm statistics as training might leave them."""

import contextlib

import numpy as np
import torch
from hypothesis import strategies

from kilonet.models.model import Model
from kilonet.network.graph import place
from kilonet.network.layers import parse_layer
from kilonet.network.module import initial_network
from kilonet.network.operations import Shape
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError

_LAYERS = (
    "conv {c}",
    "conv {c} same",
    "conv {c} 1x1",
    "conv {c} 1x1 same",
    "conv {c} 2x2",
    "conv {c} 5x5 same",
    "conv {d} depthwise",
    "conv {d} same depthwise",
    "conv {c} stride 2",
    "conv {c} 1x1 stride 3",
    "conv {c} 2x2 stride 4",
    "conv {c} 5x5 same stride 2",
    "conv {d} 2x2 stride 2 depthwise",
    "conv {d} same stride 3 depthwise",
    "conv {i} same residual",
    "conv {i} 1x1 same residual",
    "conv {i} same depthwise residual",
    "pointwise {c}",
    "maxpool 2",
    "maxpool 3",
    "avgpool 2",
    "avgpool 3",
    "gap",
)


@strategies.composite
def sections(draw: strategies.DrawFn) -> ModelSection:
    """Draw a legal network of one to six layers, and an end that leaves one value a class."""
    shape: Shape = draw(strategies.tuples(*(strategies.integers(1, high) for high in (3, 11, 11))))
    first, layers = shape, []
    for _ in range(draw(strategies.integers(1, 6))):
        channels = draw(strategies.integers(1, 6))
        words = draw(strategies.sampled_from(_LAYERS)).format(c=channels, d=shape[0] * (1 + channels % 2), i=shape[0])
        try:
            (placed,) = place([parse_layer(words)], shape)
        except KilonetError:
            continue
        layers.append(words)
        shape = placed.output_shape
        if draw(strategies.booleans()):
            layers, shape = _repeat_if_it_fits(draw(strategies.sampled_from(["again 1", "again 2 x2"])), layers, first)
    if shape[1:] != (1, 1):
        layers.append(
            draw(strategies.sampled_from(["gap", *(f"{kind} {min(shape[1:])}" for kind in ("maxpool", "avgpool"))]))
        )
        (placed,) = place([parse_layer(layers[-1])], shape)
        shape = placed.output_shape
    layers += ["gap"] if shape[1:] != (1, 1) else []
    layers += draw(strategies.sampled_from([[], ["pointwise 3"], ["conv 3 1x1"]]))
    mean, std = (
        draw(strategies.tuples(*(strategies.sampled_from(values) for _ in range(first[0]))))
        for values in ([0.0, 0.1307, 0.5], [0.2, 0.3081, 0.4])
    )
    return ModelSection(input=first, layers=tuple(layers or ["gap"]), mean=mean, std=std)


def _repeat_if_it_fits(words: str, layers: list[str], first: Shape) -> tuple[list[str], Shape]:
    """Add a repetition if it fits; return the layers and the shape that they leave."""
    for longer in ([*layers, words], layers):
        with contextlib.suppress(KilonetError):
            return longer, place([parse_layer(text) for text in longer], first)[-1].output_shape
    raise AssertionError(layers)


def model_of(section: ModelSection, seed: int) -> Model:
    """Return a model with random weights, some batch norm scales negative, and batch statistics of random images."""
    network = initial_network(section, seed)
    random = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.weight.shape, generator=random) * 1.6 - 0.2)
                module.bias.copy_(torch.randn(module.bias.shape, generator=random) / 2)
    with torch.no_grad():
        network.train()(images_for(section, seed, 64))
    # Batch norm would amplify a channel that hardly varies, with all its rounding errors.
    state = {name: tensor + 0.1 if name.endswith("running_var") else tensor for name, tensor in network.state().items()}
    return Model(section, state)


def images_for(section: ModelSection, seed: int, count: int) -> torch.Tensor:
    """Return random images of random brightness, uint8 (count, channels, rows, columns)."""
    random = np.random.default_rng(seed)
    brightness = random.uniform(0.2, 1, (count, section.input[0], 1, 1))
    return torch.from_numpy((random.integers(0, 256, (count, *section.input)) * brightness).astype(np.uint8))


models = strategies.builds(model_of, sections(), strategies.integers(0, 1000))
