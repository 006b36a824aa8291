"""Running the JavaScript of an exported page: the whole page in Chromium, or its network alone in Node.

Chromium is the real thing, Content-Security-Policy included. Node gets the network and its interpreter, the same text,
taken out of the page.
"""

import base64
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilonet.export.integer import Pixels
from kilonet.utils.errors import CannotRunHere, KilonetError
from kilonet.utils.files import read_bounded

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

_MAXIMUM_BYTES = 16 << 20
_LONGEST_RUN = 600
_IMAGES = 500
_OF_MANY = """([encoded, size], logits) => {
  const pixels = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  const rows = [];
  for (let start = 0; start < pixels.length; start += size) rows.push(logits(pixels.subarray(start, start + size)));
  return rows.map((row) => Array.from(row));
}"""
IN_CHROMIUM = f"(batch) => ({_OF_MANY})(batch, window.kilonet.logits)"
"""From a batch to its rows of logits, in an open page."""
_IN_NODE = f"""
const [network, ...batches] = JSON.parse(require("fs").readFileSync(0, "utf8"));
const logits = integerNetwork(network);
console.log(JSON.stringify(batches.flatMap((batch) => ({_OF_MANY})(batch, logits))));
"""

Batch = tuple[str, int]
"""The pixels of several images in base64, and how many one image has."""
_Rows = list[list[int]]


class ExportedPage:
    """The page of an exported folder, run where this machine can."""

    def __init__(self, path: Path) -> None:
        """Find out where to run it.

        Raises:
            KilonetError: the file is unreadable or no page of ours.
            CannotRunHere: there is nothing on this machine to run it.
        """
        network_and_interpreter(path)
        self._path = path
        self._run = _runner()

    def logits(self, pixels: Pixels) -> NDArray[np.int32]:
        """Return what the page's own JavaScript gives: uint8 (N, channels, rows, columns) to int32 (N, classes).

        Raises:
            KilonetError: it is damaged.
        """
        # Playwright refuses a thread in which an asyncio loop runs, as in a notebook; a new one has none.
        with ThreadPoolExecutor(1) as thread:
            rows = thread.submit(self._run, self._path, batches_of(pixels)).result()
        try:
            return np.array(rows, np.int32).reshape(len(pixels), -1)
        except (OverflowError, TypeError, ValueError):
            raise KilonetError(f"{self._path}: what it gives are no logits") from None


def batches_of(pixels: Pixels) -> list[Batch]:
    """Cut images into batches."""
    parts = (pixels[start : start + _IMAGES] for start in range(0, len(pixels), _IMAGES))
    return [(base64.b64encode(part.tobytes()).decode(), part[0].size) for part in parts]


def browser_path() -> str | None:
    """Return the path of an installed Chromium, or of a browser made from it."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def network_and_interpreter(path: Path) -> tuple[str, str]:
    """Return the two parts of a page that need no document: the network's JSON and `integer.js`.

    Raises:
        KilonetError: the file is unreadable or no page of ours.
    """
    text = read_bounded(path, _MAXIMUM_BYTES, "a page").decode(errors="replace")
    network = re.search(r'<script id="network" type="application/json">(.*?)</script>', text, re.DOTALL)
    interpreter = re.search(r"<script>(// The integer network.*?)</script>", text, re.DOTALL)
    if not network or not interpreter:
        raise KilonetError(f"{path}: no page that kilonet has written")
    return network[1], interpreter[1]


def _runner() -> Callable[[Path, list[Batch]], _Rows]:
    if browser_path() and importlib.util.find_spec("playwright"):
        return in_chromium
    if shutil.which("node"):
        return in_node
    raise CannotRunHere(
        "a page runs in Chromium with Python's playwright (in a checkout: pip install '.[browser]'), or in Node"
    )


def in_chromium(path: Path, batches: list[Batch]) -> _Rows:
    """Open the page in a headless browser and ask it for every batch's logits."""
    from playwright.sync_api import Error, sync_playwright  # noqa: PLC0415 - an extra of its own

    try:
        with sync_playwright() as playwright, playwright.chromium.launch(executable_path=browser_path()) as browser:
            tab = browser.new_page()
            tab.goto(path.resolve().as_uri())
            return [row for batch in batches for row in tab.evaluate(IN_CHROMIUM, batch)]
    except Error as error:
        raise KilonetError(f"{path}: Chromium could not run it: {error.message.splitlines()[0]}") from None


def in_node(path: Path, batches: list[Batch]) -> _Rows:
    """Give Node the page's network and interpreter, and every batch."""
    network, interpreter = network_and_interpreter(path)
    done = subprocess.run(  # noqa: S603 - the page's own code, which a browser would run too
        ["node", "-e", interpreter + _IN_NODE],  # noqa: S607 - found on the caller's path
        input=f"[{','.join([network, *map(json.dumps, batches)])}]",
        capture_output=True,
        text=True,
        timeout=_LONGEST_RUN,
        check=False,
    )
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "Error" in line), "it failed")
        raise KilonetError(f"{path}: Node could not run it: {reason}")
    rows: _Rows = json.loads(done.stdout)
    return rows
