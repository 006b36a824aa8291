"""Takes the pictures of the exported page and of the served one, at a desk in light and on a phone in dark.

    python benchmarks/page_picture.py [--model best] [--out docs/pictures]

Writes page.png, serve.png and photo.jpg, the photo that the phone shows. It needs Chromium, and the extras `browser`
and `serve`.
"""

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from kilonet.data.datasets import load_data
from kilonet.export.exporter import export_html, model_name
from kilonet.export.html.browser import browser_path
from kilonet.export.html.page import PAGE_FILE
from kilonet.models.model import load_model
from serve_load import service

ROOT = Path(__file__).resolve().parent.parent
DESK = {"viewport": {"width": 1120, "height": 740}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "is_mobile": True, "has_touch": True}
# Points of a stroke that a smooth curve goes through.
FIVE = ((0.66, 0.2), (0.42, 0.2)), ((0.42, 0.2), (0.39, 0.45), (0.53, 0.43), (0.66, 0.56), (0.62, 0.76), (0.34, 0.78))
THREE = (
    ((0.36, 0.26), (0.5, 0.17), (0.63, 0.28), (0.57, 0.42), (0.45, 0.47)),
    ((0.45, 0.47), (0.64, 0.55), (0.65, 0.73), (0.5, 0.83), (0.34, 0.75)),
)


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="best")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        service(options.model) as served,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=browser_path()) as browser,
    ):
        export_html(load_model(options.model), load_data("mnist"), Path(folder), model_name(options.model))
        exported = (Path(folder) / PAGE_FILE).as_uri()
        photo = photo_of_a_digit(options.out / "photo.jpg")
        drawn = [photograph(browser, address, DESK, THREE) for address in (exported, served)]
        keep(beside([drawn[0], photograph(browser, exported, PHONE, FIVE)]), options.out / "page.png")
        keep(beside([drawn[1], photograph(browser, served, PHONE, photo=photo)]), options.out / "serve.png")
    return 0


def photo_of_a_digit(path: Path) -> Path:
    """Write a photo of a test image: in blue ink, on paper that is lit from one side."""
    digit = Image.fromarray(load_data("mnist").test.pixels[3000, 0].numpy()).resize(
        (300, 300), Image.Resampling.BICUBIC
    )
    paper = np.linspace(245, 190, 480)[None, :, None] * np.ones((480, 1, 3)) * (1, 0.98, 0.93)
    ink = np.asarray(digit, np.float64)[:, :, None] / 255
    paper[90:390, 90:390] += ink * ((40, 55, 130) - paper[90:390, 90:390])
    Image.fromarray(paper.astype(np.uint8)).save(path, quality=90)
    return path


def keep(picture: Image.Image, path: Path) -> None:
    """Write a picture in few bytes."""
    picture.quantize(192).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


def photograph(
    browser: Browser, address: str, options: dict[str, Any], strokes: Any = (), photo: Path | None = None
) -> Image.Image:
    """Open the page, draw strokes on it or give it a photo, and return what it looks like."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(address)
    if photo:
        page.locator("#photo").set_input_files(photo)
    for stroke in strokes:
        draw(page, np.array(stroke))
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot()))
    context.close()
    return picture.convert("RGB")


def draw(page: Page, stroke: Any) -> None:
    """Draw a curve through the points, from (0, 0) to (1, 1) on the paper, with the mouse."""
    box = page.locator("#paper").bounding_box()
    if box is None:
        raise RuntimeError("the page has no paper")
    corner, size = np.array([box["x"], box["y"]]), np.array([box["width"], box["height"]])
    for number, (x, y) in enumerate((corner + size * curve(stroke)).tolist()):
        page.mouse.move(x, y)
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def curve(points: Any) -> Any:
    """Return points on the Catmull-Rom spline through the given ones: (N, 2) to (M, 2)."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, 8)[:, None]
    parts = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        cubic = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
        parts.append(cubic / 2)
    return np.concatenate(parts)


def beside(parts: list[Image.Image]) -> Image.Image:
    """Join pictures of one height."""
    joined = Image.new("RGB", (sum(part.width for part in parts), parts[0].height))
    left = 0
    for part in parts:
        joined.paste(part, (left, 0))
        left += part.width
    return joined


if __name__ == "__main__":
    raise SystemExit(main())
