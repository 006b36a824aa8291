"""The weights that a network takes over from its parent: which, from where, and how much they keep of what it knew."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kilonet.data.datasets import DataSet
from kilonet.models.model import Model, load_model, packaged_models
from kilonet.network.module import initial_network
from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe
from kilonet.sweep.inheritance import inherit
from kilonet.sweep.mutations import mutate
from kilonet.utils.errors import KilonetError


@pytest.fixture(scope="module")
def best() -> Model:
    return load_model("best")


def changed(model: Model, layers: list[str]) -> ModelSection:
    return ModelSection.model_validate(
        {**model.section.model_dump(exclude_none=True), "layers": layers, "max_parameters": None}
    )


def untrained(name: str) -> Model:
    """The network of a recipe with weights and statistics of all kinds of values."""
    section = load_recipe(name).model
    generator = torch.Generator().manual_seed(1)
    state = initial_network(section, seed=1).state()
    return Model(section, {key: torch.rand(value.shape, generator=generator) + 0.5 for key, value in state.items()})


def accuracy(model: Model, data: DataSet) -> float:
    logits = model.logits(data.test.pixels[:1000])
    return (logits.argmax(1) == data.test.labels[:1000]).float().mean().item()


@pytest.mark.parametrize("name", ["best", "mcu", "1k", "photo-8k"])
def test_the_same_layers_take_over_everything(name: str) -> None:
    model = load_model(name) if name in packaged_models() else untrained(name)
    state = model.network.state()
    taken = inherit(model, model.section, seed=7).network.state()
    assert taken.keys() == state.keys()
    assert all(tensor.equal(state[key]) for key, tensor in taken.items())


NO_OTHER_ANSWER: dict[str, Callable[[list[str]], list[str]]] = {
    "a wider layer": lambda layers: [layer.replace("18", "23") for layer in layers],
    "a wider first layer": lambda layers: [layer.replace("10", "12") for layer in layers[:3]] + layers[3:],
    "a pointwise layer more": lambda layers: [*layers[:5], "pointwise 18", *layers[5:]],
    "a residual layer more": lambda layers: [*layers[:7], "conv 36 3x3 same residual", *layers[7:]],
    "a larger kernel": lambda layers: [*layers[:2], "conv 10 7x7 same depthwise residual", *layers[3:]],
    "a repeated residual layer": lambda layers: [*layers[:8], "again 1 x2", *layers[8:]],
}


@pytest.mark.parametrize("name", list(NO_OTHER_ANSWER))
def test_what_is_added_changes_no_answer(best: Model, mnist: DataSet, name: str) -> None:
    section = changed(best, NO_OTHER_ANSWER[name](list(best.section.layers)))
    child = inherit(best, section, seed=3)
    assert child.section.placed != best.section.placed
    pixels = mnist.test.pixels[:100]
    torch.testing.assert_close(child.logits(pixels), best.logits(pixels), rtol=1e-4, atol=1e-4)


def test_what_a_new_layer_adds_can_be_learned(best: Model) -> None:
    """New channels are not zero themselves: with zeros on both sides no gradient would ever reach them."""
    child = inherit(best, changed(best, [layer.replace("18", "23") for layer in best.section.layers]), seed=3)
    state = child.network.state()
    assert state["layers.3.convolution.weight"][18:].abs().min() > 0
    assert state["layers.6.convolution.weight"][:, 18:].abs().max() == 0


def test_the_weakest_channels_are_pruned(best: Model, mnist: DataSet) -> None:
    """In all layers that share them; the network still knows most digits, and those it keeps are the strongest."""
    layers = [layer.replace("36", "34") for layer in best.section.layers[:8]]
    section = changed(best, [*layers, *best.section.layers[8:]])
    child = inherit(best, section, seed=3)
    scales = best.network.state()["layers.7.layer.batch_norm.weight"]
    kept = scales.abs().argsort(descending=True)[:34].sort().values
    assert child.network.state()["layers.7.layer.batch_norm.weight"].equal(scales[kept])
    weights = best.network.state()
    assert child.network.state()["layers.6.convolution.weight"].equal(weights["layers.6.convolution.weight"][kept])
    assert child.network.state()["layers.8.convolution.weight"].equal(weights["layers.8.convolution.weight"][:, kept])
    assert accuracy(child, mnist) > 0.6
    assert accuracy(Model(section, initial_network(section, 3).state()), mnist) < 0.3


def test_a_depthwise_layer_of_one_channel_takes_over_that_channel_s_kernel(best: Model) -> None:
    section = changed(best, ["conv 2", "conv 2 same depthwise residual", "gap", "pointwise 10"])
    generator = torch.Generator().manual_seed(1)
    state = {
        key: torch.rand(one.shape, generator=generator) for key, one in initial_network(section, 0).state().items()
    }
    scales = [name for name in state if name.endswith("batch_norm.weight")]
    for name in scales:
        # The second channel stays.
        state[name] = torch.tensor([0.5, 2.0])
    parent = Model(section, state)
    child = inherit(parent, changed(best, ["conv 1", "conv 1 same depthwise residual", "gap", "pointwise 10"]), seed=3)
    (kernel,) = (
        name for name, tensor in state.items() if tensor.shape == (2, 1, 3, 3) and name.startswith("layers.1.")
    )
    assert child.network.state()[kernel].equal(state[kernel][1:])


@given(seed=st.integers(0, 10_000))
@settings(max_examples=8)
def test_every_moved_network_inherits(seed: int) -> None:
    """Through several generations, the same from the same seed."""
    generator, model = np.random.default_rng(seed), untrained("1k")
    for _ in range(6):
        try:
            section = changed(model, list(mutate(model.section.layers, model.section.input_shape, generator)))
        except KilonetError:
            continue
        child, again = inherit(model, section, seed=3), inherit(model, section, seed=3)
        shapes = {name: tensor.shape for name, tensor in initial_network(section, 0).state().items()}
        assert {name: tensor.shape for name, tensor in child.network.state().items()} == shapes
        assert child.sha256 == again.sha256
        assert child.logits(torch.zeros(2, *section.input_shape, dtype=torch.uint8)).isfinite().all()
        model = child
