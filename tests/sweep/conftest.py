"""What the tests of whole sweeps share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def base(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that uses everything that a checkpoint stores."""
    path = tmp_path_factory.mktemp("base") / "tiny.toml"
    path.write_text(
        f"""
        [model]
        layers = ["gap", "pointwise 10"]
        dropout = 0.05
        [train]
        ema = 0.9
        [augment]
        rotation = 10
        [run]
        data = "{small_folder}"
        engine = "torch"
        device = "cpu"
        precision = "float32"
        """
    )
    return path
