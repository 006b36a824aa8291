"""Writes TensorBoard's event files in the run folder, with the same figures as `metrics.jsonl`."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from kilonet.training.progress import NoProgress, Progress
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
"""Field of the metrics by name of the curve. `scored` is the test set, or the images held out."""


class EventFile(NoProgress):
    """A progress listener that writes one event file, with one step an epoch.

    When a run is resumed, the file is rewritten from `metrics.jsonl`, so that no epoch is missing or in it twice.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._writer: SummaryWriter | None = None

    def epoch_started(self, epoch: int, steps: int) -> None:
        # Not earlier: only now does this process hold the folder's lock, and `metrics.jsonl` have all epochs so far.
        self._open_writer()

    def epoch_trained(self, metrics: EpochMetrics, scored: str, images: int) -> None:
        writer = self._open_writer()
        _write_metrics(writer, metrics)
        # The events must be on the disk before the epoch's checkpoint.
        writer.flush()

    def stopped(self) -> None:
        # If no epoch was left to train, the file does not exist yet.
        if self._writer is None and (self._run / METRICS_FILE).is_file():
            self._open_writer()
        if self._writer is not None:
            self._writer.close()

    def of_teacher(self) -> Progress:
        # The file is of one run.
        return NoProgress()

    def _open_writer(self) -> SummaryWriter:
        if self._writer is None:
            self._writer = _rewrite_events(self._run)
        return self._writer


def _rewrite_events(run: Path) -> SummaryWriter:
    folder = run / EVENTS_FOLDER
    try:
        for file in folder.glob("events.out.tfevents.*"):
            file.unlink()
        writer = SummaryWriter(str(folder))
        for metrics in read_history(run):
            _write_metrics(writer, metrics)
        writer.flush()
    except OSError as error:
        raise KilonetError(f"{folder} cannot be written: {error.strerror or error}") from None
    return writer


def _write_metrics(writer: SummaryWriter, metrics: EpochMetrics) -> None:
    for tag, field in _TAGS.items():
        writer.add_scalar(tag, getattr(metrics, field), metrics.epoch)
