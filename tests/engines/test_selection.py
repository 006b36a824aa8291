"""Which engine and device compute a run."""

import pytest
import torch

from helpers import tiny_recipe
from kilonet.engines.selection import resolve_device


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
