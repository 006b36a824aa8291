"""The ideas that are tried on recipes: what is trained becomes the plain network, and the choices are as described."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import model_section, tiny_recipe
from kilonet.data.datasets import DataSet, Images
from kilonet.models.model import Model
from kilonet.network.module import Network, initial_network
from kilonet.network.section import ModelSection
from kilonet.recipe import load_recipe
from kilonet.training.train import draw_epoch, fit
from kilonet.utils.errors import KilonetError

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import ensembles
import idea_networks
import ideas
import restarts

RECIPES = ["half-k", "1k", "fashion"]
"""With weights that are repeated, with a stride, with padded residual layers, and in colour or grey."""


def changed_network(kind: str, plain: Network) -> idea_networks.ComputedNetwork | idea_networks.PartNetwork:
    match kind:
        case "branches":
            return idea_networks.ComputedNetwork(plain, idea_networks.Branches, pointwise=False, seed=1)
        case "four-bit":
            return idea_networks.ComputedNetwork(plain, idea_networks.Rounded, pointwise=True)
    return idea_networks.PartNetwork(plain, 1)


def pixels_for(section: ModelSection, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *section.input_shape), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("kind", ideas.BY_TORCH)
def test_the_plain_network_computes_what_the_trained_one_does(kind: str, name: str) -> None:
    section = load_recipe(name).model
    plain = initial_network(section, 3)
    network, pixels = changed_network(kind, plain), pixels_for(section, 16)
    before = {key: value.clone() for key, value in network.folded().items()}
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    network.train()
    for _ in range(2):
        logits = network(pixels)
        if isinstance(network, idea_networks.PartNetwork) and network.whole_logits is not None:
            logits = logits + network.whole_logits
        optimizer.zero_grad()
        logits.square().mean().backward()
        # A tensor without one would stay as it was drawn.
        assert all(parameter.grad is not None for parameter in network.parameters())
        optimizer.step()
    network.eval()
    folded = network.folded()
    assert set(folded) == set(plain.state())
    assert all(not torch.equal(folded[key], before[key]) for key in folded if key.endswith("convolution.weight"))
    with torch.no_grad():
        expected = network(pixels)
    torch.testing.assert_close(Model(section, folded).logits(pixels), expected, atol=1e-5, rtol=1e-5)


def test_rounded_weights_have_fifteen_levels_a_channel() -> None:
    plain = initial_network(load_recipe("1k").model, 3)
    for name, weight in changed_network("four-bit", plain).folded().items():
        if name.endswith("convolution.weight"):
            exact = plain.state()[name]
            step = exact.abs().amax((1, 2, 3), keepdim=True) / 7
            levels = weight / step
            torch.testing.assert_close(levels, levels.round(), atol=1e-5, rtol=0)
            assert (weight - exact).abs().le(step * 0.50001).all()


def test_an_untrained_part_has_its_wider_network_s_first_channels() -> None:
    section = model_section("conv 4", "pointwise 3", "gap", "pointwise 10")
    network = idea_networks.PartNetwork(initial_network(section, 0), 1)
    own, seen = dict(network.named_parameters()), dict(network._with_part())
    assert {name: tuple(weight.shape[:2]) for name, weight in seen.items()} == {
        "layers.0.convolution.weight": (12, 1),
        "layers.1.convolution.weight": (9, 12),
        "layers.3.convolution.weight": (10, 9),
    }
    for name, weight in seen.items():
        part = own[name]
        assert torch.equal(weight[: len(part), : part.shape[1]], part)
        rest = network.whole.get_parameter(name)
        assert torch.equal(weight[len(part) :], rest[len(part) :])
        assert torch.equal(weight[:, part.shape[1] :], rest[:, part.shape[1] :])


def test_a_repetition_counts_the_layers_that_stand_for_its_own() -> None:
    layers = ("conv 4", "pointwise 4", "conv 4 depthwise", "again 2 x2", "again 3", "gap", "pointwise 10")
    assert idea_networks.expanded(layers) == (
        *("conv 4", "pointwise 16", "pointwise 4", "conv 4 depthwise", "again 3 x2", "again 4", "gap"),
        *("pointwise 40", "pointwise 10"),
    )
    plain, longer = model_section(*layers), model_section(*idea_networks.expanded(layers))
    bare = [one.layer for one in longer.placed if str(one.layer) not in ("pointwise 16", "pointwise 40")]
    assert bare == [one.layer for one in plain.placed]


@pytest.mark.parametrize("idea", [*ideas.KEYS, *ideas.BY_TORCH])
def test_every_idea_trains(idea: str) -> None:
    recipe = tiny_recipe(epochs=1, threads=1, ema=0.9)
    data = DataSet(
        Images(pixels_for(recipe.model, 300), torch.arange(300) % 10, "Training"),
        Images(pixels_for(recipe.model, 20), torch.arange(20) % 10, "Test"),
    )
    if idea in ideas.KEYS:
        changed = ideas.KEYS[idea](recipe)
        assert changed != recipe
        score, model = ideas.trained(changed, data)
        assert model.section.layers == changed.model.layers
    else:
        score, model = ideas.trained(recipe.replace(engine="torch"), data, None, idea)
        assert model.section == recipe.model
    assert 0 <= score.errors <= 20
    assert np.isfinite(score.loss)


def test_the_wider_network_is_trained_too() -> None:
    recipe = tiny_recipe(engine="torch", device="cpu", precision="float32", threads=1, ema=0.0, weight_decay=0.0)
    images = Images(pixels_for(recipe.model, 32), torch.arange(32) % 10, "Training")
    network = idea_networks.PartNetwork(initial_network(recipe.model, 0), 1)
    engine = idea_networks.PartEngine(recipe, images, network)
    before = {name: tensor.clone() for name, tensor in network.whole.named_parameters()}
    engine.train_batch(draw_epoch(recipe, images.labels, 0, "cpu"), 0.1, 0)
    changed = {name for name, tensor in network.whole.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed == set(before)


def test_doubted_are_the_images_whose_label_is_improbable(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    probabilities = torch.tensor([[0.9, 0.1], [0.995, 0.005], [0.5, 0.5], [0.02, 0.98], [0, 1.0], [0.001, 0.999]])
    monkeypatch.setattr(ideas, "judged", lambda _, fold: probabilities[fold :: ideas.FOLDS])
    # A thread sees the function that was replaced.
    with ThreadPoolExecutor(1) as pool:
        found = ideas.doubts("best", labels, pool)
    assert found.places.tolist() == [1, 5]
    assert found.classes.tolist() == [0, 1]
    images = Images(torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1), labels, "Training")
    assert ideas.mended(images, found, "relabelled").labels.tolist() == [0, 0, 1, 0, 1, 1]
    dropped = ideas.mended(images, found, "dropped")
    assert (dropped.pixels.flatten().tolist(), dropped.labels.tolist()) == ([0, 2, 3, 4], [0, 1, 0, 1])
    assert images.labels.tolist() == labels.tolist()


def training(seed: int, errors: Sequence[float], loss: float, accuracy: float) -> restarts.Training:
    return restarts.Training(seed, tuple(errors), loss, accuracy)


def test_a_restart_is_chosen_by_what_is_held_out_alone() -> None:
    trainings = [
        training(0, [0.3, 0.02], 0.1, 0.99),
        training(1, [0.1, 0.01], 0.2, 0.97),
        training(2, [0.2, 0.03], 0.3, 0.96),
        training(3, [0.2, 0.03], 0.2, 0.95),
    ]
    assert [one.seed for one in restarts.chosen(trainings, 2)] == [1, 3]
    text = restarts.report(trainings, 2)
    assert "All seeds: 96.75 ± 1.71 % of the test images, n = 4." in text
    assert "The best of 2 by the held-out images: 96.00 ± 1.41 %, n = 2, against the mean of its own 2: -0.75" in text
    assert "| 1 | 99.00 % | 97.00 % | yes |" in text
    assert "| 2 | 97.00 % | 96.00 % |  |" in text


def test_networks_together_average_their_probabilities(tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=1)
    data = DataSet(
        Images(pixels_for(recipe.model, 100), torch.arange(100) % 10, "Training"),
        Images(pixels_for(recipe.model, 40), torch.arange(40) % 10, "Test"),
    )
    runs = [fit(recipe.replace(seed=seed), data, out=tmp_path / f"run-{seed}") for seed in (0, 1)]
    first, second = (ensembles.probabilities_of(run, data.test) for run in runs)
    scores = ensembles.together([first, second], data.test.labels.long())
    assert scores[0].errors == round(40 * (1 - runs[0].result.final.test_accuracy))
    assert scores[0].loss == pytest.approx(runs[0].result.final.test_loss, rel=1e-4)
    assert scores[1] == ensembles.score((first + second) / 2, data.test.labels.long())
    rows = ensembles.report(runs, data.test).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| run-0", "| run-1"]
    with pytest.raises(KilonetError, match="not trained on the same images: mnist, other"):
        ensembles.scored_images([runs[0], fit(recipe.replace(data="other"), data)], test=False)
