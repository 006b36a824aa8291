"""Which engine and device compute a run."""

import pytest
import torch

from helpers import refusal, tiny_recipe
from kilonet.engines.selection import resolve_device, resolve_run
from kilonet.utils.errors import KilonetError


@pytest.mark.parametrize(
    ("gpu", "engine", "device"),
    [(True, "auto", "cuda"), (True, "torch", "cuda"), (True, "native", "cpu"), (False, "auto", "cpu")],
)
def test_auto_takes_a_gpu_unless_the_native_engine_is_asked_for(
    gpu: bool,
    engine: str,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert resolve_device(tiny_recipe(device="auto", engine=engine).run) == device


def test_compiling_is_refused_where_it_cannot_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KilonetError) as error:
        resolve_run(tiny_recipe(compile=True, device="cpu", dropout=0.0))
    refusal(error, "--compile", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_run(tiny_recipe(compile=True, device="cuda", dropout=0.0)).run.compile
    with pytest.raises(KilonetError) as error:
        resolve_run(tiny_recipe(compile=True, device="cuda", dropout=0.1))
    refusal(error, "--compile", "dropout")
