"""Commands that are killed at random moments and repeated write what they write unkilled; see benchmarks/kills.py."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "kills.py"


def prove(kills: int, *commands: str, engine: str = "auto") -> None:
    words = [sys.executable, str(SCRIPT), "--kills", str(kills), "--engine", engine, *commands]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in commands:
        assert f"{command} " in done.stdout


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="workers are found under /proc")
def test_a_few_kills_change_nothing() -> None:
    """Those of trainings are in test_kill.py."""
    prove(2, "seeds", "export", "calibrate", engine="torch")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="workers are found under /proc")
def test_two_hundred_kills_of_each_command_change_nothing() -> None:
    prove(200, "training", "distillation", "seeds", "export", "calibrate")
