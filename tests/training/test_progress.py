"""What a run says while it trains, held against the lines of the ERA homework."""

import io
import re
from collections.abc import Callable

import pytest

from kilonet.training.progress import BarProgress, LineProgress, NoProgress, Progress, progress_on, score_line
from kilonet.training.run_folder import EpochMetrics

METRICS = EpochMetrics(
    epoch=0,
    train_loss=0.4,
    train_accuracy=0.8657,
    test_loss=0.15361,
    test_accuracy=0.968,
    learning_rate=0.1,
    seconds=73.0,
    images_per_second=821.9,
)
# From the ERA homework's README.
SCORE = "Test set: Average loss: 0.1536, Accuracy: 9680/10000 (96.80%)"
FIGURES = "Accuracy=86.57, Batch_id=468, loss=0.185"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def tell(progress: Progress) -> None:
    progress.message("hello")
    progress.epoch_started(0, 469)
    for batch in range(468):
        progress.batch_trained(batch, 0.5, 2.3)
    progress.batch_trained(468, 0.86571, 0.1849)
    progress.epoch_trained(METRICS, "Test", 10_000)
    progress.stopped()


def test_the_score_is_the_seeds_line() -> None:
    assert score_line(METRICS, "Test", 10_000) == SCORE
    assert score_line(METRICS, "Holdout", 10_000) == SCORE.replace("Test", "Holdout")


@pytest.mark.parametrize(("loss", "text"), [(0.0627, "0.0627"), (0.131, "0.131"), (0.023, "0.023"), (2.3026, "2.3")])
def test_losses_are_rounded_as_the_seeds_are(loss: float, text: str) -> None:
    stream = io.StringIO()
    progress = LineProgress(stream)
    progress.epoch_started(1, 469)
    progress.batch_trained(468, 0.968, loss)
    progress.epoch_trained(METRICS, "Test", 10_000)
    assert stream.getvalue().splitlines()[0].endswith(f"Accuracy=96.80, Batch_id=468, loss={text}]")


def test_a_log_gets_two_plain_lines_an_epoch() -> None:
    stream = io.StringIO()
    tell(LineProgress(stream))
    assert stream.getvalue().splitlines() == ["hello", f"EPOCH: 0: 469/469 [73.0s, 822 images/s, {FIGURES}]", SCORE]


def test_a_log_of_several_runs_has_prefixes() -> None:
    stream = io.StringIO()
    tell(LineProgress(stream, "seed 3: "))
    assert all(line.startswith("seed 3: ") for line in stream.getvalue().splitlines())


def last_state(text: str) -> str:
    """Return what a terminal would show of a line that was written over and over."""
    return text.rsplit("\r", maxsplit=1)[-1]


def test_a_terminal_gets_the_seeds_bar() -> None:
    stream = Terminal()
    tell(BarProgress(stream))
    first, *rest = stream.getvalue().split("\n")
    assert first == "hello"
    assert re.fullmatch(
        rf"EPOCH: 0: 100%\|█+\| 469/469 \[\d\d:\d\d<\d\d:\d\d, .+it/s, {FIGURES}\]", last_state(rest[0])
    )
    assert rest[1:] == ["", SCORE, "", ""]


def test_a_bar_that_is_broken_off_ends_its_line() -> None:
    stream = Terminal()
    progress = BarProgress(stream)
    progress.epoch_started(3, 469)
    progress.batch_trained(100, 0.9, 0.3)
    progress.stopped()
    progress.stopped()
    assert stream.getvalue().endswith("\n")
    assert "101/469" in last_state(stream.getvalue().rstrip("\n"))


@pytest.mark.parametrize(("stream", "kind"), [(Terminal(), BarProgress), (io.StringIO(), LineProgress)])
def test_terminals_get_bars_and_files_get_lines(stream: io.StringIO, kind: type) -> None:
    assert isinstance(progress_on(stream), kind)


def test_it_says_it_on_the_stderr_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    progress_on().message("hello")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


@pytest.mark.parametrize("make", [NoProgress, lambda: BarProgress(io.StringIO()), lambda: LineProgress(io.StringIO())])
def test_stopping_before_anything_began_is_nothing(
    make: Callable[[], Progress], capsys: pytest.CaptureFixture[str]
) -> None:
    make().stopped()
    tell(NoProgress())
    assert capsys.readouterr() == ("", "")
