"""TensorBoard's event files in the run folder, told the same epochs as `metrics.jsonl`."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from kilonet.training.progress import Silence
from kilonet.training.run_folder import EVENTS_FOLDER, METRICS_FILE, EpochMetrics, read_history
from kilonet.utils.errors import KilonetError

_TAGS = {
    "loss/training": "train_loss",
    "loss/scored": "test_loss",
    "accuracy/training": "train_accuracy",
    "accuracy/scored": "test_accuracy",
    "learning rate": "learning_rate",
    "images a second": "images_per_second",
}
"""Of the curves, with the metrics' fields; `scored` is the test set, or the images held out."""


class EventFile(Silence):
    """A progress that writes one event file: a step an epoch.

    When a run goes on, the file is written anew from `metrics.jsonl`, so that no epoch is in it twice or missing.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._writer: SummaryWriter | None = None

    def epoch_started(self, epoch: int, steps: int) -> None:
        """Open the file before the first epoch: by then the run folder is ours and holds the epochs so far."""
        self._opened()

    def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None:
        """Write the epoch, to the disk before its checkpoint is."""
        writer = self._opened()
        _write(writer, metrics)
        writer.flush()

    def stopped(self) -> None:
        """Close the file; where no epoch was left to train, write those there were."""
        if self._writer is None and (self._run / METRICS_FILE).is_file():
            self._opened()
        if self._writer is not None:
            self._writer.close()

    def _opened(self) -> SummaryWriter:
        if self._writer is None:
            self._writer = _written_anew(self._run)
        return self._writer


def _written_anew(run: Path) -> SummaryWriter:
    folder = run / EVENTS_FOLDER
    try:
        for file in folder.glob("events.out.tfevents.*"):
            file.unlink()
        writer = SummaryWriter(str(folder))
        for metrics in read_history(run):
            _write(writer, metrics)
        writer.flush()
    except OSError as error:
        raise KilonetError(f"{folder} cannot be written: {error.strerror or error}") from None
    return writer


def _write(writer: SummaryWriter, metrics: EpochMetrics) -> None:
    for tag, field in _TAGS.items():
        writer.add_scalar(tag, getattr(metrics, field), metrics.epoch)
