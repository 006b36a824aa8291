"""What a training says while it runs: progress bars in a terminal, plain lines elsewhere, or nothing."""

import sys
from typing import NoReturn, Protocol, TextIO

from tqdm import tqdm

from kilonet.training.run_folder import EpochMetrics


class Progress(Protocol):
    """Is told what happens; the default tells nobody."""

    def message(self, text: str) -> None:
        """Say one line."""

    def epoch_started(self, epoch: int, steps: int) -> None:
        """An epoch of so many steps begins."""

    def batch_trained(self, batch: int, accuracy: float, loss: float) -> None:
        """So many batches of the epoch, counted from 0, are trained: accuracy so far (a fraction), latest loss."""

    def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None:
        """The epoch is trained, and so many images of the set `scored` have been scored."""

    def stopped(self) -> None:
        """Training has ended or was broken off."""


class Silence:
    """Tells nobody."""

    def message(self, text: str) -> None:
        """Say nothing."""

    def epoch_started(self, epoch: int, steps: int) -> None:
        """Say nothing."""

    def batch_trained(self, batch: int, accuracy: float, loss: float) -> None:
        """Say nothing."""

    def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None:
        """Say nothing."""

    def stopped(self) -> None:
        """Say nothing."""


class BarProgress:
    """A bar an epoch and a line of test figures, as in the ERA homework's README."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm[NoReturn] | None = None

    def message(self, text: str) -> None:
        """Say one line."""
        print(text, file=self._stream)

    def epoch_started(self, epoch: int, steps: int) -> None:
        """Open the epoch's bar."""
        self._bar = tqdm(total=steps, desc=f"EPOCH: {epoch}", file=self._stream, dynamic_ncols=True)

    def batch_trained(self, batch: int, accuracy: float, loss: float) -> None:
        """Move the bar."""
        if self._bar is not None:
            figures = f"Accuracy={100 * accuracy:.2f}, Batch_id={batch}, loss={loss:.3g}"
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update(batch + 1 - self._bar.n)

    def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None:
        """Close the bar and say the figures."""
        self.stopped()
        print(f"\n{score_line(metrics, scored, images)}\n", file=self._stream, flush=True)

    def stopped(self) -> None:
        """Leave the bar as it stands, on a line of its own."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class LineProgress:
    """Two plain lines an epoch, for logs, each with a prefix."""

    def __init__(self, stream: TextIO, prefix: str = "") -> None:
        self._stream = stream
        self._prefix = prefix
        self._epoch_head = ""
        self._tail = ""

    def message(self, text: str) -> None:
        """Say one line, in one write, so that lines of several processes do not mix."""
        self._stream.write(f"{self._prefix}{text}\n")
        self._stream.flush()

    def epoch_started(self, epoch: int, steps: int) -> None:
        """Remember how the epoch's line begins."""
        self._epoch_head = f"EPOCH: {epoch}: {steps}/{steps}"

    def batch_trained(self, batch: int, accuracy: float, loss: float) -> None:
        """Remember the latest figures."""
        self._tail = f"Accuracy={100 * accuracy:.2f}, Batch_id={batch}, loss={loss:.3g}"

    def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None:
        """Say the epoch's two lines."""
        speed = f"{metrics.seconds:.1f}s, {metrics.images_per_second:,.0f} images/s"
        self.message(f"{self._epoch_head} [{speed}, {self._tail}]")
        self.message(score_line(metrics, scored, images))

    def stopped(self) -> None:
        """Say nothing: every line is whole."""


class Together:
    """Tells several."""

    def __init__(self, *listeners: Progress) -> None:
        self._listeners = listeners

    def message(self, text: str) -> None:
        """Say one line to each."""
        for listener in self._listeners:
            listener.message(text)

    def epoch_started(self, epoch: int, steps: int) -> None:
        """Tell each."""
        for listener in self._listeners:
            listener.epoch_started(epoch, steps)

    def batch_trained(self, batch: int, accuracy: float, loss: float) -> None:
        """Tell each."""
        for listener in self._listeners:
            listener.batch_trained(batch, accuracy, loss)

    def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None:
        """Tell each."""
        for listener in self._listeners:
            listener.epoch_trained(metrics, scored, images)

    def stopped(self) -> None:
        """Tell each."""
        for listener in self._listeners:
            listener.stopped()


def score_line(metrics: EpochMetrics, scored: str, images: int) -> str:
    """Return the line of test figures, worded as in the ERA homework's README."""
    correct = round(metrics.test_accuracy * images)
    share = f"{correct}/{images} ({100 * metrics.test_accuracy:.2f}%)"
    return f"{scored} set: Average loss: {metrics.test_loss:.4f}, Accuracy: {share}"


def progress_on(stream: TextIO | None = None) -> Progress:
    """Return bars if the stream, stderr by default, is a terminal, else lines."""
    stream = stream or sys.stderr
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)
