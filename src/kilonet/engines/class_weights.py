"""The weights of classes in the loss, for data that has more images of some classes than of others.

The loss of a batch's labels is mean(weight * loss) over its images, where an image has its class's weight and its
cross-entropy is that with smoothed labels. The mean weight of the images of an epoch is one, not that of a batch's
images: an image counts the same whatever it is beside, and its class has its share of the loss in batches of any size.
So does Keras; `torch.nn.functional.cross_entropy(weight=...)` divides by the sum of the batch's weights, and in a small
batch a rare image then counts less than its weight says. With smoothing, torch would also weight how the smoothed share
is spread, and the target of an image would lean towards the rare classes. The teachers' part has no weights.
"""

import torch
from torch import Tensor

from kilonet.recipe import Recipe
from kilonet.utils.errors import KilonetError


def class_weights(recipe: Recipe, labels: Tensor) -> Tensor | None:
    """Return the weight of each class, float32 (classes,), or None if all weigh the same.

    The weights are scaled so that the images of an epoch have a mean weight of one.
    `balanced` gives class k the weight N / (classes * N_k), where N_k of the N training images are of it, so that every
    class has the same share of the loss. Source: scikit-learn, `compute_class_weight("balanced")`, after G. King and
    L. Zeng, "Logistic regression in rare events data", 2001.

    Args:
        recipe: the recipe.
        labels: the classes of the training images, int64 (N,).

    Raises:
        KilonetError: the classes are to be balanced, and one has no training images.
    """
    chosen = recipe.train.class_weights
    if chosen is None:
        return None
    counts = torch.bincount(labels.cpu(), minlength=recipe.model.classes).double()
    if isinstance(chosen, str):
        _check_counts(
            counts, "its weight cannot be balanced; give the weights as numbers, or train with --class-weights none"
        )
        weights = 1 / counts
    else:
        weights = torch.tensor(chosen, dtype=torch.float64)
    shown = torch.ones_like(counts) if recipe.train.sampling == "balanced" else counts
    return (weights * shown.sum() / (weights * shown).sum()).float()


def check_balance(recipe: Recipe, labels: Tensor) -> None:
    """Check that every class that a recipe balances, by weights or by sampling, has training images.

    Raises:
        KilonetError: one has none.
    """
    class_weights(recipe, labels)
    if recipe.train.sampling == "balanced":
        counts = torch.bincount(labels.cpu(), minlength=recipe.model.classes)
        _check_counts(counts, "it cannot be sampled as often as the others; train with --sampling shuffled")


def _check_counts(counts: Tensor, consequence: str) -> None:
    if not counts.all():
        raise KilonetError(f"class {int((counts == 0).nonzero()[0])} has no training images, so {consequence}")


def effective_images(weights: Tensor | None, labels: Tensor) -> float:
    """Return how many images of equal weight would give a mean as certain as the weighted mean of these.

    That is sum(weight)^2 / sum(weight^2). Source: L. Kish, "Survey sampling", 1965, section 11.7.

    Args:
        weights: the weight of each class, or None if all weigh the same.
        labels: the classes of the images, int64 (N,).
    """
    if weights is None:
        return len(labels)
    own = weights.double()[labels.cpu()]
    return float(own.sum() ** 2 / own.square().sum())
