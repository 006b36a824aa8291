"""Headless Chromium for tests of pages: the installed one, driven by Playwright.

The fixture `chromium` in conftest.py is one browser for the whole session; `watched` opens a page in it. While the
browser is open, an asyncio loop runs in the main thread; a test that needs its own loop runs it in another
thread.
"""

import base64
import contextlib
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request

DESKTOP = {"viewport": {"width": 1180, "height": 800}}
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}

_ON_VIOLATION = "addEventListener('securitypolicyviolation', (event) => console.error('violates', event.blockedURI))"


@dataclass
class Watch:
    """Collects the errors, warnings and forbidden requests of a page."""

    allowed: tuple[str, ...]
    """Beginnings of the addresses that the page may request."""
    complaints: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def over(self, page: Page) -> Iterator[None]:
        """Watch a page during the `with` block."""
        page.on("console", self._hear)
        page.on("pageerror", self._fail)
        page.on("request", self._see)
        yield
        page.remove_listener("console", self._hear)
        page.remove_listener("pageerror", self._fail)
        page.remove_listener("request", self._see)

    def _fail(self, error: Error) -> None:
        self.complaints.append(f"error: {error}")

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text}")

    def _see(self, request: Request) -> None:
        if not request.url.startswith((*self.allowed, "data:")):
            self.complaints.append(f"request: {request.url}")


@contextlib.contextmanager
def watched(browser: Browser, address: str, *allowed: str, **options: Any) -> Iterator[Page]:
    """Open an address, and fail at the end if the page had an error or requested anything else.

    Args:
        browser: the browser.
        address: the address to open, which the page may request.
        allowed: beginnings of further addresses that the page may request.
        options: options of Playwright's `new_context`, such as `DESKTOP` or `PHONE`.
    """
    watch = Watch((address, *allowed))
    media = {name: options.pop(name, None) for name in ("color_scheme", "reduced_motion")}
    with _lent_page(browser, options) as page, watch.over(page):
        # The same page can show them all.
        page.emulate_media(**{name: value or "null" for name, value in media.items()})
        page.goto(address)
        yield page
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    assert not watch.complaints, watch.complaints


_IDLE: WeakKeyDictionary[Browser, defaultdict[str, list[Page]]] = WeakKeyDictionary()
"""The pages of each browser that no test uses, by the options of their contexts."""


@contextlib.contextmanager
def _lent_page(browser: Browser, options: dict[str, Any]) -> Iterator[Page]:
    """Lend a page, which is lent again unless the test fails: for a new one Chromium starts a new process."""
    idle = _IDLE.setdefault(browser, defaultdict(list))[repr(options)]
    if idle:
        page = idle.pop()
    else:
        page = browser.new_context(**options).new_page()
        page.add_init_script(_ON_VIOLATION)
    yield page
    page.goto("about:blank")
    idle.append(page)


_INTRUDE = """async () => {
  const seen = [];
  addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
  const script = document.createElement("script");
  script.textContent = "window.intruder = true";
  document.body.append(script);
  const image = document.createElement("img");
  image.src = "http://localhost:9/x.png";
  document.body.append(image);
  document.body.setAttribute("style", "color: red");
  await fetch("http://localhost:9/").catch(() => {});
  await new Promise((done) => setTimeout(done, 200));
  return [window.intruder, [...new Set(seen)].sort()];
}"""


def intruded(browser: Browser, address: str) -> Any:
    """Insert a script, an image, a style and a request into a page, which its policy must forbid.

    Returns what the script left behind, and the directives of the policy that were violated.
    """
    with _lent_page(browser, {}) as page:
        page.goto(address)
        return page.evaluate(_INTRUDE)


Point = tuple[float, float]


def draw(page: Page, canvas: str, *strokes: list[Point]) -> None:
    """Draw strokes with the mouse: points from (0, 0), the canvas's corner, to (1, 1)."""
    for stroke in strokes:
        (x, y), *rest = placed_on(page, canvas, stroke)
        page.mouse.move(x, y)
        page.mouse.down()
        for x, y in rest:
            page.mouse.move(x, y)
        page.mouse.up()


def touch(page: Page, canvas: str, *strokes: list[Point]) -> None:
    """Draw strokes with a finger through the browser's own input, which scrolls if the page allows it."""
    session = page.context.new_cdp_session(page)

    def send(kind: str, *points: Point) -> None:
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    for stroke in strokes:
        points = placed_on(page, canvas, dense(stroke, 2))
        send("touchStart", points[0])
        for point in points[1:]:
            send("touchMove", point)
        send("touchEnd")


def dense(stroke: list[Point], steps: int = 3) -> list[Point]:
    """Return a stroke with more points between its points."""
    at = np.linspace(0, len(stroke) - 1, (len(stroke) - 1) * steps + 1)
    xs, ys = (np.interp(at, range(len(stroke)), axis) for axis in zip(*stroke, strict=True))
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def pixels_of(data_url: str) -> NDArray[np.uint8]:
    """Return the pixels of what a canvas's `toDataURL` gave, uint8 (rows, columns, 4): as numbers they take seconds."""
    content = base64.b64decode(data_url.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def placed_on(page: Page, canvas: str, stroke: list[Point]) -> list[Point]:
    box = page.locator(canvas).bounding_box()
    assert box
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
