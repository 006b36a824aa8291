"""The C form as a package of Arduino, PlatformIO, ESP-IDF, Zephyr or CMake.

The same C files lie in `src`, beside the files that the ecosystem's own tool reads, and an example that tests the
network and classifies a stored image.

The files in `package_files` hold names with the default prefix, which the chosen one replaces, and values as @NAME@.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray

from kilonet.export.c.codegen import weight_bytes
from kilonet.export.c.prefix import file_name, with_prefix
from kilonet.export.integer import IntegerNetwork, Pixels
from kilonet.models.calibration import UNFITTED
from kilonet.models.metadata import Metadata
from kilonet.models.model import PACKAGED_LICENCE
from kilonet.utils.errors import KilonetError
from kilonet.utils.schema import shortened

SOURCE_FOLDER = "src"
"""Where a package has the C files."""
VERSION = "1.0.0"
"""The version of every package: what changes is the model, of which the header states the SHA-256."""
_EXAMPLE, _IMAGE = "example.c", "image.h"
_NOT_PACKAGED = frozenset({"main.c", "Makefile"})
"""Files of the flat form, by their names with the default prefix, that build an example for the command line."""
_SPDX = {PACKAGED_LICENCE: "MIT"}
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+()-]*")


@dataclass(frozen=True)
class Package:
    """What a package has beside the C files, and how it is used."""

    files: Mapping[str, str]
    """The name of the template in `package_files` by the path in the folder; `image.h` is written from the network."""
    use: str
    """What a project does with the folder, as `kilonet export` says it."""


PACKAGES: Mapping[str, Package] = {
    "arduino": Package(
        {
            "library.properties": "arduino/library.properties",
            "examples/classify/classify.ino": "example.ino",
            "examples/classify/image.h": _IMAGE,
        },
        "move the folder into Arduino's folder 'libraries', then open File > Examples > kilonet_model > classify",
    ),
    "platformio": Package(
        {
            "library.json": "platformio/library.json",
            "examples/classify/platformio.ini": "platformio/platformio.ini",
            "examples/classify/src/main.cpp": "example.ino",
            "examples/classify/src/image.h": _IMAGE,
        },
        "move the folder into the project's 'lib', or run pio in its examples/classify",
    ),
    "esp-idf": Package(
        {
            "CMakeLists.txt": "esp-idf/CMakeLists.txt",
            "Kconfig": "esp-idf/Kconfig",
            "idf_component.yml": "esp-idf/idf_component.yml",
            "examples/classify/CMakeLists.txt": "esp-idf/example_CMakeLists.txt",
            "examples/classify/sdkconfig.defaults": "esp-idf/sdkconfig.defaults",
            "examples/classify/main/CMakeLists.txt": "esp-idf/main_CMakeLists.txt",
            "examples/classify/main/classify.c": _EXAMPLE,
            "examples/classify/main/image.h": _IMAGE,
        },
        "move the folder into the project's 'components', or run idf.py in its examples/classify",
    ),
    "zephyr": Package(
        {
            "zephyr/module.yml": "zephyr/module.yml",
            "zephyr/CMakeLists.txt": "zephyr/CMakeLists.txt",
            "zephyr/Kconfig": "zephyr/Kconfig",
            "samples/classify/CMakeLists.txt": "zephyr/sample_CMakeLists.txt",
            "samples/classify/prj.conf": "zephyr/prj.conf",
            "samples/classify/sample.yaml": "zephyr/sample.yaml",
            "samples/classify/src/classify.c": _EXAMPLE,
            "samples/classify/src/image.h": _IMAGE,
        },
        "append the folder to EXTRA_ZEPHYR_MODULES and set CONFIG_KILONET_MODEL=y, or build its samples/classify",
    ),
    "cmake": Package(
        {
            "CMakeLists.txt": "cmake/CMakeLists.txt",
            "examples/classify/CMakeLists.txt": "cmake/example_CMakeLists.txt",
            "examples/classify/classify.c": _EXAMPLE,
            "examples/classify/image.h": _IMAGE,
        },
        "add_subdirectory of the folder, or install it and find_package(kilonet_model)",
    ),
}
"""The packages by their names for --to."""


@dataclass(frozen=True, eq=False)
class PackageFacts:
    """What the files of a package state beside those of the C form."""

    prefix: str
    licence: str | None
    """An SPDX expression; None if it is not known."""
    image: Pixels
    """The image of the example: uint8 (channels, rows, columns)."""
    label: int
    """The class that the integer reference gives it."""


def first_sure(logits: NDArray[np.int32], fraction_bits: int, metadata: Metadata) -> int:
    """Return the place of the first image that is answered surely, for the example to show; 0 if none is.

    Args:
        logits: int32 (N, classes).
        fraction_bits: how often to halve a logit for that of the float network.
        metadata: the model's metadata, with its calibration.
    """
    floats = np.ldexp(logits.astype(np.float64), -fraction_bits).astype(np.float32)
    return int(np.argmin((metadata.calibration or UNFITTED).uncertain(floats)))


def source_path(name: str, package: str | None) -> str:
    """Return the path of a C file in a folder with a package; None is the flat form."""
    return name if package is None else f"{SOURCE_FOLDER}/{name}"


def packaged(package: str, sources: Mapping[str, str], network: IntegerNetwork, facts: PackageFacts) -> dict[str, str]:
    """Return the content of all files of a package by their paths in its folder.

    Args:
        package: a name of `PACKAGES`.
        sources: the C files by name, with their prefix.
        network: the integer network.
        facts: what else the files state.

    Raises:
        KilonetError: the licence is none that can stand in these files.
    """
    left_out = {file_name(name, facts.prefix) for name in _NOT_PACKAGED}
    texts = {source_path(name, package): text for name, text in sources.items() if name not in left_out}
    values = _values(package, network, facts)
    for path, template in PACKAGES[package].files.items():
        if template == _IMAGE:
            texts[path] = _image_header(facts)
            continue
        text = (files("kilonet.export.c") / "package_files" / template).read_text(encoding="utf-8")
        # The values come last: a prefix must not change them.
        texts[path] = re.sub("@([A-Z]+)@", lambda found: values[found[1]], with_prefix(text, facts.prefix))
    return texts


def _values(package: str, network: IntegerNetwork, facts: PackageFacts) -> dict[str, str]:
    channels, rows, columns = network.input_shape
    planes = {1: "grey", 3: "coloured"}.get(channels, f"{channels}-channel")
    return {
        "VERSION": VERSION,
        "DESCRIPTION": f"Sorts {planes} images of {columns}x{rows} pixels into {network.classes:,} classes; "
        f"a network of {weight_bytes(network):,} integer weights",
        "LICENCE": _licence_line(package, facts.licence),
        "STACK": str(_stack_bytes(network)),
    }


def _licence_line(package: str, licence: str | None) -> str:
    """Return the line of a JSON or YAML file that states the licence; '' without one."""
    if licence is None:
        return ""
    if not _LICENCE.fullmatch(licence):
        raise KilonetError(f"the licence {shortened(licence)} is no SPDX expression, such as MIT or Apache-2.0")
    # A JSON string of these characters is one of YAML too.
    quoted = json.dumps(_SPDX.get(licence, licence))
    return f'\n  "license": {quoted},' if package == "platformio" else f"license: {quoted}\n"


def _stack_bytes(network: IntegerNetwork) -> int:
    """Return the stack of the task that runs the example: `printf`, a row and two rows of logits."""
    channels, _, columns = network.input_shape
    return 3072 + (channels * columns + 8 * network.classes) // 256 * 256


def _image_header(facts: PackageFacts) -> str:
    rows = ",\n".join(
        "    {" + "\n     ".join(wrap(", ".join(map(str, row)), 112)) + "}"
        for row in facts.image.transpose(1, 2, 0).reshape(facts.image.shape[1], -1).tolist()
    )
    text = f"""/* Written by kilonet export. A training image, each row [column][channel]. Its class by the reference,
 * counted from 0, is {facts.label}. */
#if defined(__AVR__) && KILONET_PIXELS > 32767
#error "an AVR has no array of over 32,767 bytes: give the network the rows of a camera instead of a stored image"
#endif
static const uint8_t image[KILONET_ROWS][KILONET_ROW_BYTES] KILONET_FLASH = {{
{rows}}};
"""
    return with_prefix(text, facts.prefix)
