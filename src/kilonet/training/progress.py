"""Progress of training: progress bars in a terminal, plain lines elsewhere, or nothing."""

import sys
from typing import NoReturn, Protocol, TextIO

from tqdm import tqdm

from kilonet.training.run_folder import EpochMetrics
from kilonet.utils.terminal import printable


class Progress(Protocol):
    """Receives the events of a training run, in order."""

    def message(self, text: str) -> None:
        """A line of text for the user."""

    def epoch_started(self, epoch: int, steps: int) -> None:
        """An epoch of `steps` batches begins."""

    def batch_trained(self, batch: int, accuracy: float, loss: float) -> None:
        """The batches up to `batch`, counted from 0, are trained.

        Args:
            batch: number of the batch in the epoch.
            accuracy: of the epoch so far, a fraction.
            loss: mean loss of the latest batches.
        """

    def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None:
        """An epoch is trained and scored on `images` images of the set named `scored`."""

    def stopped(self) -> None:
        """Training has ended or was interrupted."""

    def of_teacher(self) -> "Progress":
        """Return what receives the events of a teacher's training, which comes before that of the run."""


class NoProgress:
    """Ignores all events; a base for classes that need only some."""

    def message(self, text: str) -> None: ...

    def epoch_started(self, epoch: int, steps: int) -> None: ...

    def batch_trained(self, batch: int, accuracy: float, loss: float) -> None: ...

    def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None: ...

    def stopped(self) -> None: ...

    def of_teacher(self) -> Progress:
        return self


class BarProgress:
    """One progress bar and one line of test figures an epoch, as in the ERA homework's README."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm[NoReturn] | None = None

    def message(self, text: str) -> None:
        print(printable(text), file=self._stream)

    def epoch_started(self, epoch: int, steps: int) -> None:
        self._bar = tqdm(total=steps, desc=f"EPOCH: {epoch}", file=self._stream, dynamic_ncols=True)

    def batch_trained(self, batch: int, accuracy: float, loss: float) -> None:
        if self._bar is not None:
            figures = f"Accuracy={100 * accuracy:.2f}, Batch_id={batch}, loss={loss:.3g}"
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update(batch + 1 - self._bar.n)

    def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None:
        self.stopped()
        print(f"\n{score_line(metrics, scored, images)}\n", file=self._stream, flush=True)

    def stopped(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def of_teacher(self) -> Progress:
        return self


class LineProgress:
    """Two plain lines an epoch, for logs; each line starts with a prefix."""

    def __init__(self, stream: TextIO, prefix: str = "") -> None:
        self._stream = stream
        self._prefix = prefix
        self._epoch_head = ""
        self._latest = ""

    def message(self, text: str) -> None:
        # One write, so that the lines of several processes do not mix.
        self._stream.write(f"{self._prefix}{printable(text)}\n")
        self._stream.flush()

    def epoch_started(self, epoch: int, steps: int) -> None:
        self._epoch_head = f"EPOCH: {epoch}: {steps}/{steps}"

    def batch_trained(self, batch: int, accuracy: float, loss: float) -> None:
        self._latest = f"Accuracy={100 * accuracy:.2f}, Batch_id={batch}, loss={loss:.3g}"

    def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None:
        speed = f"{metrics.seconds:.1f}s, {metrics.images_per_second:,.0f} images/s"
        self.message(f"{self._epoch_head} [{speed}, {self._latest}]")
        self.message(score_line(metrics, scored, images))

    def stopped(self) -> None: ...

    def of_teacher(self) -> Progress:
        return self


class ProgressGroup:
    """Passes each event on to several listeners."""

    def __init__(self, *listeners: Progress) -> None:
        self._listeners = listeners

    def message(self, text: str) -> None:
        for listener in self._listeners:
            listener.message(text)

    def epoch_started(self, epoch: int, steps: int) -> None:
        for listener in self._listeners:
            listener.epoch_started(epoch, steps)

    def batch_trained(self, batch: int, accuracy: float, loss: float) -> None:
        for listener in self._listeners:
            listener.batch_trained(batch, accuracy, loss)

    def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None:
        for listener in self._listeners:
            listener.epoch_trained(metrics, scored, images)

    def stopped(self) -> None:
        for listener in self._listeners:
            listener.stopped()

    def of_teacher(self) -> Progress:
        return ProgressGroup(*(listener.of_teacher() for listener in self._listeners))


def score_line(metrics: EpochMetrics, scored: str, images: int) -> str:
    """Return the line of test figures of an epoch, worded as in the ERA homework's README."""
    correct = round(metrics.test_accuracy * images)
    accuracy = f"{correct}/{images} ({100 * metrics.test_accuracy:.2f}%)"
    return f"{scored} set: Average loss: {metrics.test_loss:.4f}, Accuracy: {accuracy}"


def progress_on(stream: TextIO | None = None) -> Progress:
    """Return progress bars if the stream (default stderr) is a terminal, else plain lines."""
    stream = stream or sys.stderr
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)
