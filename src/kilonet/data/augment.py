"""Batches of training images, and their random changes.

The changes are, in this order:

1. An affine transform maps a position in the augmented image to the position in the original that is shown there.
   Positions are (x, y) in pixels from the image's centre; x grows to the right, y downwards; pixel centres of a
   28-pixel row lie at -13.5, -12.5, ... 13.5. A transform is the 2x3 matrix [A | t]: source = A @ position + t, with

       A = rotation(angle) @ [[1, shear], [0, 1]] / scale.

   A flip negates a row of the transform, so the image is mirrored before it is moved. The original is read there by
   bilinear interpolation; outside it is zero, or its nearest pixel.
2. Blur: pixel + share * (blurred - pixel), blurred by [1, 2, 1] / 4 along rows and columns, the border repeated.
3. Colour: an affine map of a pixel's channels. Saturation s: g + (1 + s) * (pixel - g), with the grey value g of
   ITU-R BT.601; then white balance w: (1 + w) * channel; contrast c: m + (1 + c) * (channel - m), with the mean m of
   the training pixels; and brightness b: channel + 255 * b.
4. Noise: pixel + level * (a value of the standard normal distribution). Pixels that steps 3 or 4 changed are
   clamped to 0 to 255.
5. Cutout: a square becomes the mean of the training pixels. Source: T. DeVries and G. Taylor, "Improved regularization
   of convolutional neural networks with cutout", 2017.
6. Mixup: share * image + (1 - share) * (the next image of the batch, changed by its own steps 1 to 5). The loss is
   mixed with the same share. Source: H. Zhang et al., "mixup: beyond empirical risk minimization", 2018.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kilonet.data.section import AugmentSection
from kilonet.network.operations import Shape

NOISE_STARTS = 1 << 16
"""The number of places in `Batch.noise_values` where an image's own values may begin."""
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Batch:
    """Training images and how each is changed: those of a step, or of an epoch in their order.

    A change that the recipe does not ask for is None.
    """

    indices: Tensor
    """The places of the images among the training images, int64 (B,)."""
    transforms: Tensor
    """Affine transforms, float32 (B, 2, 3)."""
    blurs: Tensor | None = None
    """Shares of the blurred images, float32 (B,)."""
    colours: Tensor | None = None
    """Affine maps of the channels, 0 to 255, float32 (B, C, C + 1); the last column is added."""
    noise_levels: Tensor | None = None
    """Standard deviations of the noise, float32 (B,), on the scale 0 to 255."""
    noise_starts: Tensor | None = None
    """Where each image's own values begin in `noise_values`, int64 (B,)."""
    noise_values: Tensor | None = None
    """Values of the standard normal distribution that all images share, float32 (65,536 + C * H * W,)."""
    cutouts: Tensor | None = None
    """First row, row behind the last, first column, column behind the last, int32 (B, 4)."""
    shares: Tensor | None = None
    """The share of each image, from one half to 1, where it is mixed with the next of its batch, float32 (B,)."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.indices)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are not None, by name."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def split(self, size: int) -> Iterator["Batch"]:
        """Yield batches of `size` images; the last may have fewer."""
        for begin in range(0, len(self), size):
            yield self[begin : begin + size]

    def __getitem__(self, part: slice) -> "Batch":
        """Return a part of the images with their changes."""
        tensors = self.tensors()
        shared = {name: tensor for name, tensor in tensors.items() if name == "noise_values"}
        return Batch(**{name: tensor[part] for name, tensor in tensors.items() if name not in shared}, **shared)

    def to(self, device: str) -> "Batch":
        """Return the batch on a device."""
        return Batch(**{name: tensor.to(device) for name, tensor in self.tensors().items()})


def draw_changes(
    augment: AugmentSection,
    indices: Tensor,
    shape: Shape,
    means: Sequence[float],
    generator: torch.Generator,
    *,
    mixed: float = 0.0,
) -> Batch:
    """Draw random changes of images.

    Each number is uniform in its range, and each change is drawn only if the section asks for it, in the order of
    `Batch`. So the random numbers of a recipe do not depend on changes that it does not use.

    Args:
        augment: the ranges.
        indices: the places of the images, int64 (N,).
        shape: of an image.
        means: of the training pixels by channel, 0 to 1.
        generator: the source of all random numbers.
        mixed: the probability that an image is mixed with the next, if the section asks for mixup.
    """
    count = len(indices)

    def uniform(*sizes: int) -> Tensor:
        return torch.rand(count, *sizes, generator=generator)

    tensors = {"transforms": draw_transforms(augment, count, generator)}
    if augment.blur:
        tensors["blurs"] = augment.blur * uniform()
    if augment.brightness or augment.contrast or augment.saturation or augment.white_balance:
        tensors["colours"] = _colour_maps(augment, 2 * uniform(3 + shape[0]) - 1, means)
    if augment.noise:
        tensors["noise_levels"] = 255 * augment.noise * uniform()
        tensors["noise_starts"] = torch.randint(NOISE_STARTS, (count,), generator=generator)
        tensors["noise_values"] = torch.randn(NOISE_STARTS + math.prod(shape), generator=generator)
    if augment.cutout:
        tensors["cutouts"] = _cutouts(augment.cutout, uniform(2), shape)
    if augment.mixup:
        tensors["shares"] = _mixing_shares(augment.mixup, mixed, uniform(), generator)
    return Batch(indices, **tensors)


def draw_transforms(augment: AugmentSection, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` random transforms, float32 (count, 2, 3).

    Each parameter is uniform in its range; a flip has the probability one half.
    """
    uniform = torch.rand(count, 5, generator=generator) * 2 - 1
    angle = uniform[:, 0] * math.radians(augment.rotation)
    size = 1 + uniform[:, 1] * augment.scale
    shear = uniform[:, 2] * augment.shear
    cosine, sine = torch.cos(angle) / size, torch.sin(angle) / size
    shift_x, shift_y = (uniform[:, 3:] * augment.shift).unbind(1)
    rows = torch.stack(
        [cosine, cosine * shear - sine, shift_x, sine, sine * shear + cosine, shift_y],
        dim=1,
    )
    transforms = rows.view(count, 2, 3)
    for row, flips in enumerate((augment.flip, augment.flip_vertical)):
        # Drawn last, and only where they are used: recipes without flips keep their random numbers.
        if flips:
            transforms[torch.rand(count, generator=generator) < 0.5, row] *= -1
    if augment.crop:
        transforms[:, :, 2] += torch.randint(-augment.crop, augment.crop + 1, (count, 2), generator=generator)
    return transforms


def _colour_maps(augment: AugmentSection, drawn: Tensor, means: Sequence[float]) -> Tensor:
    """Return the maps of saturation, white balance, contrast and brightness, one after another: (N, C, C + 1).

    Args:
        augment: the ranges.
        drawn: a number from -1 to 1 for brightness, contrast, saturation and each channel, float32 (N, 3 + C).
        means: of the training pixels by channel, 0 to 1.
    """
    channels = len(means)
    brightness, contrast, saturation = (
        drawn[:, place, None, None] * size
        for place, size in enumerate((augment.brightness, augment.contrast, augment.saturation))
    )
    matrix = torch.eye(channels).expand(len(drawn), channels, channels)
    if augment.saturation:
        grey = torch.tensor(_GREY).expand(channels, channels)
        matrix = grey + (1 + saturation) * (matrix - grey)
    gains = (1 + augment.white_balance * drawn[:, 3:, None]) * (1 + contrast)
    added = 255 * (brightness - contrast * torch.tensor(means).view(-1, 1))
    return torch.cat([gains * matrix, added.expand(-1, channels, 1)], dim=2)


def _cutouts(side: int, drawn: Tensor, shape: Shape) -> Tensor:
    """Return squares around pixels at random, cut off at the border of the image, int32 (N, 4)."""
    sizes = torch.tensor(shape[1:])
    begins = (drawn * sizes).long().clamp(max=sizes - 1) - side // 2
    ends = torch.minimum(begins + side, sizes)
    return torch.stack([begins.clamp(min=0), ends], dim=2).flatten(1).to(torch.int32)


def _mixing_shares(mixup: float, mixed: float, drawn: Tensor, generator: torch.Generator) -> Tensor:
    """Return the share of each image: the larger one of a draw from Beta(mixup, mixup) where it is mixed, else 1."""
    seed = int(torch.randint(2**62, (), generator=generator))
    shares = torch.from_numpy(np.random.default_rng(seed).beta(mixup, mixup, len(drawn)).astype(np.float32))
    return torch.where(drawn < mixed, torch.maximum(shares, 1 - shares), torch.ones(()))


def apply_changes(
    pixels: Tensor, batch: Batch, means: Sequence[float], outside: Literal["zeros", "edge"] = "zeros"
) -> Tensor:
    """Return the changed images of a batch, float32 (B, C, H, W), 0 to 255.

    Args:
        pixels: the images of the batch, uint8 (B, C, H, W).
        batch: their changes.
        means: of the training pixels by channel, 0 to 1.
        outside: what a moved image shows beyond its border.
    """
    changed = apply_transforms(pixels, batch.transforms, outside)
    if batch.blurs is not None:
        changed = changed + _by_image(batch.blurs) * (_blurred(changed) - changed)
    if batch.colours is not None:
        matrix, added = batch.colours[:, :, :-1], batch.colours[:, :, -1:]
        changed = (matrix @ changed.flatten(2) + added).view_as(changed)
    if batch.noise_levels is not None and batch.noise_starts is not None and batch.noise_values is not None:
        places = torch.arange(changed[0].numel(), device=changed.device)
        noise = batch.noise_values[batch.noise_starts[:, None] + places].view_as(changed)
        changed = changed + _by_image(batch.noise_levels) * noise
    if batch.colours is not None or batch.noise_levels is not None:
        changed = changed.clamp(0, 255)
    if batch.cutouts is not None:
        mean = 255 * _on_device(tuple(means), changed.device)
        changed = torch.where(_inside(batch.cutouts, changed), mean.view(1, -1, 1, 1), changed)
    if batch.shares is not None:
        share = _by_image(batch.shares)
        changed = share * changed + (1 - share) * changed.roll(-1, 0)
    return changed


def _by_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _blurred(images: Tensor) -> Tensor:
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    along = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
    return (along[..., :-2, :] + 2 * along[..., 1:-1, :] + along[..., 2:, :]) / 4


def _inside(cutouts: Tensor, images: Tensor) -> Tensor:
    """Return which pixels lie in the square of their image, bool (B, 1, H, W)."""
    first_row, last_row, first_column, last_column = cutouts.view(-1, 4, 1, 1, 1).unbind(1)
    row = torch.arange(images.shape[2], device=images.device).view(-1, 1)
    column = torch.arange(images.shape[3], device=images.device)
    return (row >= first_row) & (row < last_row) & (column >= first_column) & (column < last_column)


def apply_transforms(pixels: Tensor, transforms: Tensor, outside: Literal["zeros", "edge"] = "zeros") -> Tensor:
    """Resample images, uint8 (N, C, H, W), by transforms, float32 (N, 2, 3): float32 (N, C, H, W), 0 to 255."""
    _, _, rows, columns = pixels.shape
    to_units = _pixels_to_units(rows, columns, pixels.device)
    grid = functional.affine_grid(transforms * to_units, list(pixels.shape), align_corners=False)
    padding = "border" if outside == "edge" else "zeros"
    return functional.grid_sample(pixels.float(), grid, mode="bilinear", padding_mode=padding, align_corners=False)


@functools.lru_cache(maxsize=64)
def _pixels_to_units(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return the factors of a transform in units of `affine_grid`, halves of the image's width and height: (2, 3).

    Kept on the device: a CUDA graph that is being captured takes no tensor from the host.
    """
    # The first call may be in inference mode, later ones in training.
    with torch.inference_mode(mode=False):
        half = torch.tensor([columns / 2, rows / 2], device=device)
        return torch.cat([half.view(1, 2).expand(2, 2) / half.view(2, 1), 1 / half.view(2, 1)], dim=1)


@functools.lru_cache(maxsize=64)
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return values on a device, float32, kept there for the same reason."""
    with torch.inference_mode(mode=False):
        return torch.tensor(values, device=device)
