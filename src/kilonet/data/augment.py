"""Batched affine augmentation of uint8 images.

A transform maps a position in the augmented image to the position in the original that is shown there. Positions are
(x, y) in pixels from the image's centre; x grows to the right, y downwards; pixel centres of a 28-pixel row lie at
-13.5, -12.5, ... 13.5. A transform is the 2x3 matrix [A | t]: source = A @ position + t, with

    A = rotation(angle) @ [[1, shear], [0, 1]] / scale.

A flip negates a row of the transform, so the image is mirrored before it is moved.
The original is read there by bilinear interpolation, and is zero outside.
"""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

from kilonet.data.section import AugmentSection


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
    return transforms


def apply_transforms(pixels: Tensor, transforms: Tensor) -> Tensor:
    """Resample images, uint8 (N, C, H, W), by transforms, float32 (N, 2, 3): float32 (N, C, H, W), 0 to 255."""
    _, _, rows, columns = pixels.shape
    to_units = _pixels_to_units(rows, columns, pixels.device)
    grid = functional.affine_grid(transforms * to_units, list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@functools.lru_cache(maxsize=64)
def _pixels_to_units(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return the factors of a transform in units of `affine_grid`, halves of the image's width and height: (2, 3).

    Kept on the device: a CUDA graph that is being captured takes no tensor from the host.
    """
    # The first call may be in inference mode, later ones in training.
    with torch.inference_mode(mode=False):
        half = torch.tensor([columns / 2, rows / 2], device=device)
        return torch.cat([half.view(1, 2).expand(2, 2) / half.view(2, 1), 1 / half.view(2, 1)], dim=1)
