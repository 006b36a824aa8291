"""The weights of classes, compared with torch's own and with figures by hand."""

import pytest
import torch
from torch.nn import functional

from helpers import NEEDS_COMPILER, in_ci, refusal, tiny_recipe
from kilonet.data.augment import Batch
from kilonet.data.datasets import Images
from kilonet.engines.class_weights import class_weights, effective_images
from kilonet.engines.selection import make_engine
from kilonet.engines.torch_engine import TorchEngine
from kilonet.network.module import initial_network
from kilonet.utils.errors import KilonetError

LABELS = torch.tensor([0] * 100 + [1] * 20 + [2] * 5)
THREE = ("gap", "pointwise 3")


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    """What compute_class_weight("balanced", classes=[0, 1, 2], y=LABELS) returns."""
    found = class_weights(tiny_recipe(layers=THREE, class_weights="balanced"), LABELS)
    torch.testing.assert_close(found, torch.tensor([125 / 300, 125 / 60, 125 / 15]))


@pytest.mark.parametrize(("sampling", "mean"), [("shuffled", 142.5 / 125), ("balanced", 3.5 / 3)])
def test_weights_are_none_or_those_given_with_a_mean_of_one(sampling: str, mean: float) -> None:
    assert class_weights(tiny_recipe(layers=THREE, sampling=sampling), LABELS) is None
    found = class_weights(tiny_recipe(layers=THREE, class_weights=(1, 2, 0.5), sampling=sampling), LABELS)
    torch.testing.assert_close(found, torch.tensor([1, 2, 0.5]) / mean)


def test_a_class_without_images_cannot_be_balanced() -> None:
    with pytest.raises(KilonetError) as error:
        class_weights(tiny_recipe(layers=THREE, class_weights="balanced"), LABELS[:120])
    refusal(error, "class 2 has no training images", "--class-weights none")


def test_effective_images() -> None:
    assert effective_images(None, LABELS) == 125
    assert effective_images(torch.tensor([2.0, 2, 2]), LABELS) == pytest.approx(125)
    # All of the weight on five images.
    assert effective_images(torch.tensor([0.0, 0, 7]), LABELS) == pytest.approx(5)


def test_the_loss_of_a_step_is_the_mean_of_weighted_cross_entropies() -> None:
    recipe = tiny_recipe(layers=THREE, dropout=0.0, ema=0.0, class_weights=(0.3, 2, 5), rotation=0.0, shift=0.0)
    pixels = torch.randint(0, 256, (125, 1, 28, 28), dtype=torch.uint8)
    network = initial_network(recipe.model, 0)
    indices = torch.arange(60, 125)
    with torch.no_grad():
        logits = network.eval()(pixels[indices])
    engine = TorchEngine(recipe, Images(pixels, LABELS), network)
    engine.train_batch(Batch(indices, torch.eye(2, 3).expand(65, 2, 3)), 0.1, 0)
    # The mean weight of all images, not of the batch's.
    weights = torch.tensor([0.3, 2, 5]) / ((0.3 * 100 + 2 * 20 + 5 * 5) / 125)
    losses = functional.cross_entropy(logits, LABELS[indices], reduction="none")
    expected = (weights[LABELS[indices]] * losses).mean()
    assert engine.take_totals().loss / 65 == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("engine", [pytest.param("native", marks=NEEDS_COMPILER), "torch"])
@pytest.mark.parametrize(("weights", "learnt"), [("none", [0.8, 0.16, 0.04]), ("balanced", [1 / 3] * 3)])
@pytest.mark.parametrize("size", [125, *in_ci(5)])
def test_images_that_tell_nothing_get_the_share_of_each_class_in_the_loss(
    engine: str, weights: str, learnt: list[float], size: int
) -> None:
    """In small batches too, in most of which the rarest class has no image."""
    recipe = tiny_recipe(layers=THREE, dropout=0.0, ema=0.0, class_weights=weights, weight_decay=0.0, engine=engine)
    images = Images(torch.full((125, 1, 28, 28), 255, dtype=torch.uint8), LABELS)
    trained = make_engine(recipe, images, initial_network(recipe.model, 0))
    order = torch.randperm(125, generator=torch.Generator().manual_seed(0))
    epoch = [Batch(part, torch.eye(2, 3).repeat(size, 1, 1)) for part in order.split(size)]
    for step in range(150 if size == 125 else 50):
        for batch in epoch:
            trained.train_batch(batch, 0.05 / len(epoch), step)
    found = trained.logits(images.pixels[:1]).softmax(1)[0]
    torch.testing.assert_close(found, torch.tensor(learnt), rtol=0, atol=0.03)
