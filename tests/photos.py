"""Pictures like photos, drawn by code, as files of every kind that a page, the service and `kilonet predict` take."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

EXIF_ORIENTATION = 0x0112


def photo(columns: int, rows: int, seed: int = 0) -> Image.Image:
    """Return a picture in colour: slow gradients, shapes with sharp edges, fine stripes, and noise."""
    random = np.random.default_rng(seed)
    down, across = np.linspace(0, 1, rows)[:, None, None], np.linspace(0, 1, columns)[None, :, None]
    light = 40 + 170 * (down * random.random(3) + across * random.random(3)) / 2
    image = Image.fromarray(light.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = random.random(2) * (columns, rows) * 0.9
        box = (left, top, left + columns * random.uniform(0.05, 0.4), top + rows * random.uniform(0.05, 0.4))
        colour = tuple(int(level) for level in random.integers(0, 256, 3))
        (draw.ellipse if random.random() < 0.5 else draw.rectangle)(box, fill=colour)
    for place in range(0, columns // 4, 2):
        draw.line((place, 0, place, rows // 4), fill=(255, 255, 255) if place % 4 else (0, 0, 0))
    noisy = np.asarray(image, np.int16) + random.integers(-12, 13, (rows, columns, 3), np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def written(image: Image.Image, form: str, **options: Any) -> bytes:
    """Return an image as a file."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def exif(orientation: int) -> Image.Exif:
    """Return Exif that states an orientation, 1 to 8."""
    found = Image.Exif()
    found[EXIF_ORIENTATION] = orientation
    return found


def photo_files(columns: int, rows: int) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of files of every kind: modes, containers, orientations, transparency."""
    image = photo(columns, rows)
    for orientation in range(1, 9):
        yield f"turned-{orientation}.jpg", written(image, "JPEG", quality=90, exif=exif(orientation))
    yield "turned.png", written(image, "PNG", exif=exif(6))
    yield "turned.webp", written(image, "WebP", exif=exif(8), lossless=True)
    yield "progressive.jpg", written(image, "JPEG", quality=75, progressive=True)
    yield "full-colour.jpg", written(image, "JPEG", quality=95, subsampling=0)
    yield "cmyk.jpg", written(image.convert("CMYK"), "JPEG")
    yield "grey.jpg", written(image.convert("L"), "JPEG")
    yield "lossy.webp", written(image, "WebP", quality=80)
    yield "plain.bmp", written(image, "BMP")
    for mode in ("RGB", "L", "1", "P"):
        yield f"{mode}.png", written(image.convert(mode), "PNG")
    yield "16-bit.png", written(Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257), "PNG")
    yield "srgb.png", written(image, "PNG", icc_profile=_profile())
    yield "transparent-palette.png", written(image.convert("P"), "PNG", transparency=3)
    for name, level in (("dark", 60), ("light", 230)):
        layers = np.dstack([np.asarray(image) // 8 + level - 30, _alpha(columns, rows)]).astype(np.uint8)
        yield f"transparent-{name}.png", written(Image.fromarray(layers), "PNG")
        yield f"transparent-{name}.webp", written(Image.fromarray(layers), "WebP", lossless=True)
    yield "transparent-grey.png", written(Image.fromarray(layers).convert("LA"), "PNG")


def _alpha(columns: int, rows: int) -> NDArray[np.uint8]:
    down, across = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None]
    return np.asarray((255 * (1.2 - down**2 - across**2)).clip(0, 255), np.uint8)


def _profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
