"""Measures `kilonet serve` under load: wrk posts the same image again and again through many connections.

    python benchmarks/serve_load.py --image digit photo > docs/results/serve-load.md

Needs wrk (Debian: apt-get install wrk) and the extra `serve`. Server and wrk share the machine's cores. `digit` is the
first test image of MNIST as a PNG file; `photo` is the same digit, large on grey paper, as a JPEG file that needs all
of the preprocessing. The command fails if any response was an error.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from kilonet.data.datasets import load_data
from kilonet.utils.environment import processor_name

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "{kind}"
local file = io.open("{path}", "rb")
wrk.body = file:read("*a")
file:close()
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{{"requests": %d, "errors": %d, "microseconds": %d, "p50": %d, "p99": %d, "longest": %d}}\\n',
    summary.requests, e.connect + e.read + e.write + e.status + e.timeout, summary.duration,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def image_file(kind: str) -> tuple[bytes, str]:
    """Return the bytes of an image file and its media type."""
    digit = load_data("mnist").test.pixels[0, 0].numpy()
    file = io.BytesIO()
    if kind == "digit":
        Image.fromarray(digit).save(file, "PNG")
        return file.getvalue(), "image/png"
    paper = np.full((480, 640), 215, np.float32)
    large = Image.fromarray(digit).resize((300, 300), Image.Resampling.BICUBIC)
    paper[90:390, 170:470] -= 0.7 * np.asarray(large, np.float32)
    Image.fromarray(paper.astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue(), "image/jpeg"


@contextmanager
def service(model: str) -> Iterator[str]:
    """Serve a model at a free port and yield the address."""
    command = [sys.executable, "-m", "kilonet", "serve", model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout  # noqa: S101
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            if not found:
                raise SystemExit("the service did not start")
            yield found[0]
        finally:
            process.terminate()


def load(address: str, kind: str, connections: int, seconds: int) -> dict[str, int]:
    """Return the counts and times of wrk: microseconds, but for requests and errors."""
    content, media_type = image_file(kind)
    with tempfile.TemporaryDirectory() as folder:
        image, script = Path(folder, "image"), Path(folder, "post.lua")
        image.write_bytes(content)
        script.write_text(SCRIPT.format(kind=media_type, path=image), encoding="utf-8")
        options = [f"--connections={connections}", "--threads=1", f"--duration={seconds}s", "--latency"]
        command = ["wrk", *options, "--script", str(script), f"{address}/predict"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    counts: dict[str, int] = json.loads(printed.splitlines()[-1])
    return counts


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--image", choices=("digit", "photo"), nargs="+", default=["digit"])
    options = parser.parse_args()
    print(f"{processor_name()}, {os.cpu_count()} cores shared with wrk, {options.connections} connections, ", end="")
    print(f"{options.seconds} s\n")
    print("| image | requests a second | median | 99th percentile | longest | errors |")
    print("|---|---:|---:|---:|---:|---:|")
    errors = 0
    with service("best") as address:
        load(address, "digit", options.connections, 2)
        for kind in options.image:
            counts = load(address, kind, options.connections, options.seconds)
            errors += counts["errors"]
            rate = counts["requests"] / (counts["microseconds"] / 1e6)
            times = " | ".join(f"{counts[name] / 1000:.1f} ms" for name in ("p50", "p99", "longest"))
            print(f"| {kind} | {rate:,.0f} | {times} | {counts['errors']} |")
    if errors:
        raise SystemExit(f"{errors} errors")


if __name__ == "__main__":
    main()
