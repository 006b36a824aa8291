"""How fast image files are read: by several processes the first time, and from the cache the second.

    python benchmarks/reading.py [--images 60000]

The files are MNIST's images as JPEG in colour, 32x32 pixels, in class folders, brought to 3x28x28. The highest memory
is that of the process that loads the data, of which importing torch takes the greater part.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kilonet.data.datasets import load_data
from kilonet.utils.capacity import cores
from kilonet.utils.environment import processor_name

LOAD = """
import sys, time
from kilonet.data.datasets import load_data
from kilonet.data.preprocessing import Preprocessing
begin = time.perf_counter()
data = load_data(sys.argv[1], Preprocessing((3, 28, 28)))
seconds = time.perf_counter() - begin
own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(len(data.train) + len(data.test), seconds, own)
"""


@dataclass(frozen=True)
class Reading:
    """What reading a folder took."""

    images: int
    seconds: float
    memory: int
    """The highest memory of the process in KiB."""


def write_images(folder: Path, count: int) -> None:
    """Write MNIST's images, over again if there are not enough, as JPEG files in class folders."""
    train = load_data("mnist").train
    for number in range(count):
        image = Image.fromarray(train.pixels[number % len(train), 0].numpy()).resize((32, 32))
        # Each file is another picture: the colours differ.
        colour = np.random.default_rng(number).integers(100, 256, 3) / 255
        path = folder / str(int(train.labels[number % len(train)])) / f"{number:07}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((np.asarray(image)[:, :, None] * colour).astype(np.uint8)).save(path, quality=90)


def read(folder: Path, cache: Path) -> Reading:
    """Read a folder in a new process, with a cache of its own."""
    command = [sys.executable, "-c", LOAD, str(folder)]
    done = subprocess.run(
        command, env=os.environ | {"KILONET_CACHE": str(cache)}, capture_output=True, text=True, check=True
    )
    images, seconds, memory = done.stdout.split()
    return Reading(int(images), float(seconds), int(memory))


def main() -> None:
    """Write the files, read them twice and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name) / "data", Path(name) / "cache"
        folder.mkdir()
        write_images(folder, options.images)
        readings = {time: read(folder, cache) for time in ("first", "second")}
    print(f"{processor_name()}, {cores()} cores, {options.images:,} JPEG files of 32x32 pixels in colour\n")
    print("| time | images a second | seconds | highest memory, MiB |")
    print("|---|---:|---:|---:|")
    for time, one in readings.items():
        speed = f"{one.images / one.seconds:,.0f}"
        print(f"| {time} | {speed} | {one.seconds:.1f} | {one.memory >> 10:,} |")


if __name__ == "__main__":
    main()
