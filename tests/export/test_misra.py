"""docs/MISRA.md explains every rule that the C deviates from."""

import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "MISRA.md").read_text(encoding="utf-8")
EXPLAINED = {rule for rules in re.findall(r"\*\*([\d., ]+)\*\*", PAGE) for rule in rules.split(", ")}
ROW = re.compile(r"^\| ([\d.]+) \| (\w+) \| (\d+) \| (\d+) \|$", re.MULTILINE)


def test_every_rule_of_the_report_is_explained() -> None:
    rows = ROW.findall((ROOT / "docs" / "results" / "misra.md").read_text(encoding="utf-8"))
    assert len(rows) > 10
    assert {rule for rule, *_ in rows} == EXPLAINED
    assert {category for _, category, *_ in rows} == {"required", "advisory"}


@pytest.mark.slow
def test_the_c_violates_no_other_rule_and_shifts_no_other_negative_number(monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("cppcheck"):
        pytest.skip("needs cppcheck")
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    from misra import report

    counts = {rule: (int(inner), int(elsewhere)) for rule, _, inner, elsewhere in ROW.findall(report())}
    assert set(counts) <= EXPLAINED
    assert counts["10.1"][1] == 0
