"""Commands that are killed at random moments and repeated write what they write unkilled; see benchmarks/kills.py."""

from pathlib import Path

import pytest

from preloaded import Started

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
SCRIPT = "import sys; sys.path.insert(0, sys.argv.pop(1)); import kills; kills.main()"


def prove(kills: int, *commands: str, engine: str = "auto") -> None:
    with Started("-c", SCRIPT, BENCHMARKS, "--kills", kills, "--engine", engine, *commands) as started:
        answer = started.end(3600)
    assert answer.status == 0, answer.err
    for command in commands:
        assert f"{command} " in answer.out


@pytest.mark.ci
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="workers are found under /proc")
def test_a_few_kills_change_nothing() -> None:
    """Those of trainings are in test_kill.py."""
    prove(2, "seeds", "export", "calibrate", engine="torch")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="workers are found under /proc")
def test_two_hundred_kills_of_each_command_change_nothing() -> None:
    prove(200, "training", "distillation", "seeds", "export", "calibrate")
