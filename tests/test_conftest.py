"""What tests/conftest.py does in CI: it leaves out neither what takes long nor what wants a program or a library."""

from pathlib import Path
from typing import Any

import pytest

from conftest import left_out, pytest_runtest_makereport


def reported(outcome: str, longrepr: Any) -> pytest.TestReport:
    """Return the report of a test as the hook passes it on."""
    hook = pytest_runtest_makereport()
    next(hook)
    report = pytest.TestReport("a test", ("", 0, ""), {}, outcome, longrepr, "call")  # type: ignore[arg-type]
    with pytest.raises(StopIteration) as end:
        hook.send(report)
    passed_on: pytest.TestReport = end.value.value
    return passed_on


@pytest.mark.parametrize(
    ("reason", "in_ci"),
    [("needs clang", "failed"), ("torch sees no NVIDIA GPU here", "skipped"), ("a longer proof", "skipped")],
)
def test_only_ci_must_have_what_tests_need(reason: str, in_ci: str, monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = ("tests/test_it.py", 3, f"Skipped: {reason}")
    monkeypatch.delenv("CI", raising=False)
    assert reported("skipped", skipped).outcome == "skipped"
    monkeypatch.setenv("CI", "true")
    report = reported("skipped", skipped)
    assert report.outcome == in_ci
    assert reason in str(report.longrepr)
    assert reported("passed", None).outcome == "passed"


def test_ci_leaves_out_the_longer_proofs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert left_out(run_slow=False).keys() == {"slow", "ci"}
    monkeypatch.setenv("CI", "true")
    assert left_out(run_slow=False).keys() == {"slow"}
    assert not left_out(run_slow=True)


def test_ci_says_that_it_is_ci() -> None:
    assert "\nexport CI=true\n" in (Path(__file__).parent.parent / ".ci/run").read_text()
