"""Takes the picture of a report: its beginning at a desk in light mode, its confusion matrix on a phone in dark mode.

    python benchmarks/report_picture.py report.html [--out docs/pictures/report.png]

It needs Chromium and Python's playwright (the extra `browser`).
"""

import argparse
import io
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from kilonet.export.html.browser import browser_path
from page_picture import ROOT, beside

DESK = {"viewport": {"width": 1120, "height": 1290}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 390, "height": 1290}, "color_scheme": "dark", "is_mobile": True}


def main() -> int:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "report.png")
    options = parser.parse_args()
    address = options.report.resolve().as_uri()
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=browser_path()) as browser:
        parts = [photograph(browser, address, DESK), photograph(browser, f"{address}#confusion", PHONE)]
    beside(parts).quantize(128).save(options.out, optimize=True)
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")
    return 0


def photograph(browser: Browser, address: str, options: dict[str, Any]) -> Image.Image:
    """Return a screenshot of the report at an address."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.goto(address)
    picture = Image.open(io.BytesIO(page.screenshot()))
    context.close()
    return picture.convert("RGB")


if __name__ == "__main__":
    raise SystemExit(main())
