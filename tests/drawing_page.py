"""Helpers for the page to draw on, exported or served: digits to draw, and its texts and pixels."""

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

from browser import Point

Pixels = NDArray[np.uint8]

NOTHING = "\N{EN DASH}"

DIGITS: dict[int, list[list[Point]]] = {
    0: [[(0.5, 0.15), (0.36, 0.25), (0.31, 0.5), (0.37, 0.76), (0.5, 0.85), (0.64, 0.75), (0.69, 0.5), (0.64, 0.24),
         (0.5, 0.15)]],
    1: [[(0.52, 0.15), (0.5, 0.5), (0.48, 0.85)]],
    2: [[(0.33, 0.3), (0.42, 0.19), (0.56, 0.17), (0.66, 0.28), (0.6, 0.48), (0.45, 0.66), (0.31, 0.83), (0.5, 0.81),
         (0.7, 0.82)]],
    3: [[(0.34, 0.22), (0.5, 0.16), (0.64, 0.24), (0.62, 0.4), (0.48, 0.48), (0.63, 0.56), (0.68, 0.7), (0.55, 0.83),
         (0.35, 0.78)]],
    4: [[(0.37, 0.17), (0.33, 0.38), (0.32, 0.53), (0.5, 0.54), (0.68, 0.51)],
        [(0.63, 0.17), (0.61, 0.5), (0.58, 0.86)]],
    5: [[(0.66, 0.17), (0.4, 0.18), (0.37, 0.46), (0.52, 0.42), (0.66, 0.53), (0.65, 0.73), (0.5, 0.84), (0.33, 0.78)]],
    6: [[(0.58, 0.15), (0.43, 0.33), (0.35, 0.56), (0.38, 0.76), (0.5, 0.84), (0.62, 0.76), (0.62, 0.6), (0.5, 0.53),
         (0.38, 0.63)]],
    7: [[(0.32, 0.2), (0.5, 0.19), (0.68, 0.18), (0.58, 0.45), (0.47, 0.85)]],
    8: [[(0.62, 0.24), (0.5, 0.16), (0.38, 0.24), (0.42, 0.4), (0.58, 0.56), (0.64, 0.72), (0.5, 0.85), (0.37, 0.73),
         (0.43, 0.56), (0.58, 0.4), (0.62, 0.24)]],
    9: [[(0.64, 0.3), (0.53, 0.18), (0.38, 0.24), (0.37, 0.42), (0.5, 0.49), (0.63, 0.37), (0.64, 0.3), (0.63, 0.55),
         (0.58, 0.86)]],
}  # fmt: skip


def said(page: Page) -> str:
    """Return the text that the page announces to screen readers."""
    return page.locator("#said").inner_text()


def shows(page: Page, digit: int | None) -> None:
    """Wait until the page shows a digit, or none."""
    expect(page.locator("#digit")).to_have_text(NOTHING if digit is None else str(digit))


def seen(page: Page) -> Pixels:
    """Return the pixels of the small canvas, which shows the network's input: uint8 (28, 28)."""
    grey = page.evaluate(
        "() => Array.from(document.getElementById('seen').getContext('2d').getImageData(0, 0, 28, 28).data)"
    )
    return np.array(grey, np.uint8).reshape(28, 28, 4)[:, :, 0]
