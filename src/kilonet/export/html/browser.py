"""Run the JavaScript of an exported page: the whole page in Chromium, or only its network in Node.

Chromium opens the page as a user does, with its Content-Security-Policy. Node runs two parts of the page's text: the
network's JSON and `integer.js`.
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
# With every window Chromium starts two pages for the suggestions below its address line, which take three times as
# long as a page of ours, and others in reserve. Of two such flags only the last counts, so those features stand here
# too that Playwright switches off because they make requests.
_NEEDLESS = (
    "WebUIOmniboxPopup,WebUIOmniboxAimPopup,PreloadTopChromeWebUI,SpareRendererForSitePerProcess,"
    "AimEnabled,HttpsUpgrades,MediaRouter,NetworkTimeServiceQuerying,OptimizationHints,PreconnectToSearch"
)
CHROMIUM_FLAGS = (f"--disable-features={_NEEDLESS}",)
"""Flags that spare Chromium what it does besides the page; a version that does not know a feature ignores it."""

_MAXIMUM_BYTES = 16 << 20
_LONGEST_RUN = 600
_IMAGES = 500
_LOGITS_OF_BATCH = """([encoded, size], logits) => {
  const pixels = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  const rows = [];
  for (let start = 0; start < pixels.length; start += size) rows.push(logits(pixels.subarray(start, start + size)));
  return rows.map((row) => Array.from(row));
}"""
CHROMIUM_SCRIPT = f"(batch) => ({_LOGITS_OF_BATCH})(batch, window.kilonet.logits)"
"""JavaScript function from a batch to its rows of logits, to be evaluated in an open page."""
_NODE_SCRIPT = f"""
const [network, ...batches] = JSON.parse(require("fs").readFileSync(0, "utf8"));
const logits = integerNetwork(network);
console.log(JSON.stringify(batches.flatMap((batch) => ({_LOGITS_OF_BATCH})(batch, logits))));
"""

Batch = tuple[str, int]
"""The pixels of several images in base64, and the number of pixels of one image."""
_Rows = list[list[int]]


class PageRunner:
    """Runs the page of an exported folder in Chromium or, without it, in Node."""

    def __init__(self, path: Path) -> None:
        """Check the page and choose the program that runs it.

        Raises:
            KilonetError: the file is unreadable or not an exported page.
            CannotRunHere: this machine has neither Chromium with Playwright nor Node.
        """
        network_and_interpreter(path)
        self._path = path
        self._run = _choose_runner()

    def logits(self, pixels: Pixels) -> NDArray[np.int32]:
        """Return the logits of the page's JavaScript: uint8 (N, channels, rows, columns) to int32 (N, classes).

        Raises:
            KilonetError: the page is damaged.
        """
        # Playwright refuses a thread with a running asyncio loop, such as a notebook's; a new thread has none.
        with ThreadPoolExecutor(1) as thread:
            rows = thread.submit(self._run, self._path, encode_batches(pixels)).result()
        try:
            return np.array(rows, np.int32).reshape(len(pixels), -1)
        except (OverflowError, TypeError, ValueError):
            raise KilonetError(f"{self._path}: its JavaScript does not return logits") from None


def encode_batches(pixels: Pixels) -> list[Batch]:
    """Split images into batches and encode them."""
    parts = (pixels[start : start + _IMAGES] for start in range(0, len(pixels), _IMAGES))
    return [(base64.b64encode(part.tobytes()).decode(), part[0].size) for part in parts]


def browser_path() -> str | None:
    """Return the path of an installed Chromium or Chrome, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def network_and_interpreter(path: Path) -> tuple[str, str]:
    """Return the two parts of a page that Node runs: the network's JSON and `integer.js`.

    Raises:
        KilonetError: the file is unreadable or not an exported page.
    """
    text = read_bounded(path, _MAXIMUM_BYTES, "a page").decode(errors="replace")
    network = re.search(r'<script id="network" type="application/json">(.*?)</script>', text, re.DOTALL)
    interpreter = re.search(r"<script>(// The integer network.*?)</script>", text, re.DOTALL)
    if not network or not interpreter:
        raise KilonetError(f"{path}: not a page that kilonet has written")
    return network[1], interpreter[1]


def _choose_runner() -> Callable[[Path, list[Batch]], _Rows]:
    if browser_path() and importlib.util.find_spec("playwright"):
        return run_in_chromium
    if shutil.which("node"):
        return run_in_node
    raise CannotRunHere(
        "a page runs in Chromium with Python's playwright (in a checkout: pip install '.[browser]'), or in Node"
    )


def run_in_chromium(path: Path, batches: list[Batch]) -> _Rows:
    """Return the rows of logits of all batches from the page in headless Chromium."""
    from playwright.sync_api import Error, sync_playwright  # noqa: PLC0415 - of the extra `browser`

    try:
        with (
            sync_playwright() as playwright,
            playwright.chromium.launch(executable_path=browser_path(), args=CHROMIUM_FLAGS) as browser,
        ):
            tab = browser.new_page()
            tab.goto(path.resolve().as_uri())
            return [row for batch in batches for row in tab.evaluate(CHROMIUM_SCRIPT, batch)]
    except Error as error:
        raise KilonetError(f"{path}: Chromium could not run it: {error.message.splitlines()[0]}") from None


def run_in_node(path: Path, batches: list[Batch]) -> _Rows:
    """Return the rows of logits of all batches from the page's network in Node."""
    network, interpreter = network_and_interpreter(path)
    done = subprocess.run(  # noqa: S603 - the page's own code, which a browser would run too
        ["node", "-e", interpreter + _NODE_SCRIPT],  # noqa: S607 - found on the caller's path
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
