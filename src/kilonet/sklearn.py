"""A network as an estimator of scikit-learn, for `cross_val_score` and `GridSearchCV`; needs the extra `sklearn`.

from kilonet.sklearn import KilonetClassifier

KilonetClassifier(random_state=0).fit(images, labels).predict(others)
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from kilonet.data.datasets import DataSet, Images
from kilonet.data.image_folders import LONGEST_NAME, read_picture
from kilonet.data.preprocessing import Preprocessing
from kilonet.models.calibration import UNFITTED
from kilonet.network.operations import Shape
from kilonet.recipe import Recipe, load_recipe, parse_recipe
from kilonet.training.train import fit
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from

with needed_from("sklearn"):
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import Tags, check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

_PHOTO: Shape = (3, 32, 32)
"""The input for files, if nothing else is said."""
_SMALLEST_MAP = 8
"""The shorter side of a map that is halved once more."""
_MOST_HALVINGS = 2


class KilonetClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A compact convolutional network that classifies images.

    `fit` takes images as

    - an array (N, rows, columns) or (N, rows, columns, channels), with 1 or 3 channels;
    - an array (N, features): square images, row by row, or else images of one row;
    - a list of the paths of N image files, of any size.

    Arrays of uint8 are levels from 0 to 255. Other numbers are scaled, so that the lowest of the training images is 0
    and the highest 255. Arrays to predict must have the form and the kind of numbers of those to train on.

    Args:
        recipe: the name or the file of a recipe, or a recipe; None for plain convolutions of `width` channels, doubled
            where the maps are halved. The number of classes, mean and standard deviation are those of the data.
        image_shape: (channels, rows, columns) of the network's input, to which images are brought; None for those of
            the arrays, of the recipe if there is one, or (3, 32, 32) for files.
        width: the channels of the first layers, without a recipe.
        epochs: passes over the training images; this and all that follow are the recipe's if they are None.
        batch_size: images a step.
        learning_rate: the highest learning rate.
        weight_decay: weight decay of the convolutions' weights.
        calibration: share of the images to keep aside, on which probabilities are calibrated.
        changes: other keys of the recipe to change, each by its name alone, such as {"shift": 2.0}.
        engine: 'auto', 'native' or 'torch'.
        threads: processor threads of a training; 0 for all cores. Use 1 where several trainings run side by side.
        random_state: seed of the weights, of the order of the images and of their changes.
    """

    def __init__(
        self,
        recipe: str | Path | Recipe | None = None,
        *,
        image_shape: Shape | None = None,
        width: int = 12,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        calibration: float | None = None,
        changes: Mapping[str, Any] | None = None,
        engine: str | None = None,
        threads: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.recipe = recipe
        self.image_shape = image_shape
        self.width = width
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.calibration = calibration
        self.changes = changes
        self.engine = engine
        self.threads = threads
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Train a network.

        Args:
            X: N images, see the class.
            y: N labels of any kind.

        Raises:
            ValueError: images or labels of a wrong shape, NaN, or a single class.
            KilonetError: a parameter is out of its range, a file cannot be read, or the training diverged.
        """
        images: NDArray[Any] | list[Path]
        if (paths := _paths(X)) is not None:
            images, labels = paths, column_or_1d(y, warn=True)
            check_consistent_length(images, labels)
        else:
            array, labels = validate_data(self, X, y, dtype="numeric", allow_nd=True)
            images = _checked(array)
        self.form_ = _form(images)
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"Classifier can't train when only one class is present: {self.classes_[0]!r}")
        self.levels_ = _levels_of(images)
        recipe = None if self.recipe is None else _loaded(self.recipe)
        self.preprocessing_ = Preprocessing(self._shape(images, recipe))
        pixels = self._pixels(images)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        train = Images(pixels, torch.from_numpy(numbers.astype(np.int64)), "Train")
        # Nothing is held out: scikit-learn scores images of its own.
        data = DataSet(train, train.select(torch.arange(1), "Test"), names=_names(self.classes_))
        self.run_ = fit(self._recipe(recipe, pixels, seed), data)
        self.model_ = self.run_.model
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Return the probability of each class, float32 (N, classes), in the order of `classes_`.

        Raises:
            ValueError: images of another form than those to train on, or fractions where those were levels.
            KilonetError: a file cannot be read.
        """
        check_is_fitted(self)
        images: NDArray[Any] | list[Path] | None = _paths(X)
        if images is None:
            images = _checked(validate_data(self, X, reset=False, dtype="numeric", allow_nd=True))
            _check_form(images, self.form_)
        logits = self.model_.logits(self._pixels(images)).numpy()
        return (self.model_.metadata.calibration or UNFITTED).probabilities(logits)

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the most probable label of each image, (N,)."""
        shares = self.predict_proba(X)
        return np.asarray(self.classes_[shares.argmax(1)])

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn what the estimator takes."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        # It looks for shapes among neighbouring pixels; the columns of a table have none.
        tags.classifier_tags.poor_score = True
        return tags

    def _shape(self, images: NDArray[Any] | list[Path], recipe: Recipe | None) -> Shape:
        if self.image_shape is not None:
            if len(self.image_shape) != 3 or min(self.image_shape) < 1:
                raise ValueError(f"image_shape = {self.image_shape} is not (channels, rows, columns)")
            return self.image_shape
        if recipe is not None:
            return recipe.model.input_shape
        return _PHOTO if isinstance(images, list) else _array_shape(images)

    def _pixels(self, images: NDArray[Any] | list[Path]) -> torch.Tensor:
        """Return the network's inputs, uint8 (N, channels, rows, columns)."""
        if isinstance(images, list):
            return torch.from_numpy(
                np.stack([self.preprocessing_.apply(read_picture(path, evenly=True).values) for path in images])
            )
        shape = _array_shape(images, self.preprocessing_.shape)
        levels = _as_levels(images, self.levels_)
        if images.ndim == 2:
            pixels = levels.reshape(-1, *shape)
        else:
            pixels = np.moveaxis(levels.reshape(*images.shape[:3], -1), 3, 1)
        if pixels.shape[1:] != self.preprocessing_.shape:
            pixels = np.stack([self.preprocessing_.apply(one.transpose(1, 2, 0)) for one in pixels])
        # Copied, so that the strides of a single channel are the usual ones: torch computes by the strides.
        return torch.from_numpy(np.array(pixels, order="C"))

    def _recipe(self, recipe: Recipe | None, pixels: torch.Tensor, seed: int) -> Recipe:
        """Return the recipe with what the data decide and what the parameters change."""
        shape, classes = self.preprocessing_.shape, len(self.classes_)
        measured = pixels.float().div(255).transpose(0, 1).flatten(1)
        mean = tuple(min(value, 0.999) for value in measured.mean(1).tolist())
        std = tuple(max(value, 1e-3) for value in measured.std(1, correction=0).tolist())
        layers = _plain_layers(shape, self.width) if recipe is None else recipe.model.layers
        model: dict[str, Any] = {"input": shape, "mean": mean, "std": std, "layers": _with_classes(layers, classes)}
        own: dict[str, Any] = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "calibration": self.calibration,
            "engine": self.engine,
            "threads": self.threads,
        }
        given = {key: value for key, value in own.items() if value is not None}
        given |= {"seed": seed, **(self.changes or {})}
        if recipe is not None:
            return recipe.replace(**model, **given)
        table = {"model": model, "train": {"epochs": 20, "batch_size": 64, "learning_rate": 0.05}}
        return parse_recipe(table, "KilonetClassifier", given)


def _loaded(recipe: str | Path | Recipe) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else load_recipe(str(recipe))


def _paths(images: Any) -> list[Path] | None:
    """Return a sequence of paths, or None if it is none."""
    if isinstance(images, str | Path):
        raise ValueError("Expected a list of paths, got a single one")
    if isinstance(images, np.ndarray):
        images = images.tolist() if images.ndim == 1 and images.dtype.kind in "OU" else []
    if not isinstance(images, Sequence) or not images or not all(isinstance(one, str | Path) for one in images):
        return None
    return [Path(one) for one in images]


def _checked(array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim > 4 or (array.ndim == 4 and array.shape[3] not in (1, 3)):
        raise ValueError(f"Found array with shape {array.shape}; expected (N, rows, columns[, 1 or 3 channels])")
    return array


@dataclass(frozen=True)
class _Form:
    """What arrays of images have in common, beside the number of images."""

    shape: tuple[int, ...]
    kind: str
    """`levels` for uint8, `fractions` for floating-point numbers, and `numbers` for others."""


def _form(images: NDArray[Any] | list[Path]) -> _Form | None:
    """Return the form of an array of images; None for files."""
    if isinstance(images, list):
        return None
    kind = "levels" if images.dtype == np.uint8 else "fractions" if images.dtype.kind == "f" else "numbers"
    return _Form(images.shape[1:], kind)


def _check_form(images: NDArray[Any], fitted: _Form | None) -> None:
    found = _form(images)
    if fitted is None or found is None:
        return
    if found.shape != fitted.shape:
        raise ValueError(f"Found images of shape {found.shape}, but the classifier was fitted on {fitted.shape}")
    if {found.kind, fitted.kind} == {"levels", "fractions"}:
        raise ValueError(f"Found {images.dtype} images ({found.kind}), but the classifier was fitted on {fitted.kind}")


def _array_shape(images: NDArray[Any], wanted: Shape | None = None) -> Shape:
    """Return (channels, rows, columns) of the images in an array.

    Args:
        images: (N, features), (N, rows, columns) or (N, rows, columns, channels).
        wanted: the network's input, which decides what features are if it has as many values.
    """
    if images.ndim == 4:
        return images.shape[3], images.shape[1], images.shape[2]
    if images.ndim == 3:
        return 1, images.shape[1], images.shape[2]
    features = images.shape[1]
    if wanted is not None and features == np.prod(wanted):
        return wanted
    side = round(features**0.5)
    return (1, side, side) if side * side == features else (1, 1, features)


def _levels_of(images: NDArray[Any] | list[Path]) -> tuple[float, float]:
    """Return the numbers that become the levels 0 and 255."""
    if isinstance(images, list) or images.dtype == np.uint8:
        return 0.0, 255.0
    return float(images.min()), float(images.max())


def _as_levels(images: NDArray[Any], levels: tuple[float, float]) -> NDArray[np.uint8]:
    if images.dtype == np.uint8 and levels == (0.0, 255.0):
        return images
    low, high = levels
    # Halved, so that the difference of the largest floating-point numbers is one.
    share = (images.astype(np.float64) / 2 - low / 2) / max(high / 2 - low / 2, np.finfo(np.float64).tiny)
    return np.asarray((255 * share.clip(0, 1)).round(), np.uint8)


def _names(classes: NDArray[Any]) -> tuple[str, ...] | None:
    """Return the names of the classes in the model, if a model file can hold them."""
    names = [str(label) for label in classes.tolist()]
    usable = all(0 < len(name) <= LONGEST_NAME and "\0" not in name for name in names)
    return tuple(names) if usable and len(set(names)) == len(names) else None


def _plain_layers(shape: Shape, width: int) -> tuple[str, ...]:
    """Return pairs of convolutions, of twice the channels after each halving, and a layer for the classes."""
    layers, side = [f"conv {width} same"] * 2, min(shape[1:])
    for halving in range(1, _MOST_HALVINGS + 1):
        if side < _SMALLEST_MAP:
            break
        layers += ["maxpool 2", *[f"conv {width << halving} same"] * 2]
        side //= 2
    return (*layers, "gap", "pointwise 2")


def _with_classes(layers: Sequence[str], classes: int) -> tuple[str, ...]:
    """Return layers of which the last one with weights has a channel for each class.

    Raises:
        KilonetError: no layer has weights.
    """
    changed = list(layers)
    for place in reversed(range(len(changed))):
        if changed[place].startswith(("conv ", "pointwise ")):
            changed[place] = re.sub(r" \d+", f" {classes}", changed[place], count=1)
            return tuple(changed)
    raise KilonetError("no layer of the recipe has a channel for each class")
