"""Handlers of the commands that ship a model: files that need no Kilonet, their check, and a service."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from kilonet.flags import Positional, print_answer


def export(
    model: Positional,
    *,
    to: Literal["c", "html", "onnx"],
    out: Path,
    data: str = "mnist",
    max_flash: int | None = None,
    max_ram: int | None = None,
    json: bool = False,
) -> int:
    """Write a model as integers in a form that ships.

    Args:
        model: a packaged model, a run folder or a model file.
        to: the form: 'c' for C99 without floats, for a microcontroller; 'html' for one page to draw digits on;
            'onnx' for a float and an int8 ONNX file.
        out: the folder to write; one that holds other forms of the same model gets this one too.
        data: 'mnist', or a folder with four IDX files: what the model was trained on, to choose scales on.
        max_flash: fail if the C takes more bytes of flash on a Cortex-M0.
        max_ram: fail if the C takes more bytes of RAM.
        json: print one JSON object instead of text.
    """
    from kilonet.data.datasets import load_data
    from kilonet.export.exporter import export_as
    from kilonet.models.model import load_model

    exported = export_as(to, load_model(model), load_data(data), out, model, max_flash=max_flash, max_ram=max_ram)
    print_answer(json, exported.as_json, lambda: str(exported))
    return 0


def verify(folder: Annotated[Path, tyro.conf.Positional], *, data: str = "mnist", json: bool = False) -> int:
    """Hold every form in an exported folder against the integers.

    Args:
        folder: what 'kilonet export' wrote; its code is compiled and run.
        data: 'mnist', or a folder with four IDX files, whose test images are classified.
        json: print one JSON object instead of text.
    """
    from kilonet.data.datasets import load_data
    from kilonet.export.verify import verify as replay

    verification = replay(folder, load_data(data).test)
    print_answer(json, verification.as_json, lambda: str(verification))
    return 0 if verification.passed else 1


def serve(
    model: Positional,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_bytes: int = 8 << 20,
    max_pixels: int = 16_000_000,
    max_images: int = 32,
    max_requests: int = 128,
    max_seconds: float = 10.0,
) -> int:
    """Serve a model over HTTP, with a page to draw on.

    Args:
        model: a packaged model, a run folder, a model file or an exported folder.
        host: the address to listen on; by default only this machine's own processes reach it.
        port: the port; 0 for a free one.
        max_bytes: of a request's body.
        max_pixels: of an image, rows times columns, looked at before it is decoded.
        max_images: in a batch.
        max_requests: at once; further ones are told to come back.
        max_seconds: for a request's head, for its body, for its answer and for a client to read it, each.
    """
    from kilonet.export.loading import load
    from kilonet.serve.limits import Limits
    from kilonet.serve.server import serve

    limits = Limits(max_bytes, max_pixels, max_images, max_requests, max_seconds)
    serve(load(model), model, (host, port), limits, lambda line: print(line, flush=True))
    return 0
