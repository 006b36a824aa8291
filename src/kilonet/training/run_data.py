"""The data of a run: loaded again by what the run recorded of them, with a word if they have changed."""

import sys
from dataclasses import dataclass
from pathlib import Path

from kilonet.data.datasets import DataSet, load_data
from kilonet.data.preprocessing import Preprocessing
from kilonet.network.section import ModelSection
from kilonet.recipe import Recipe, RunSection
from kilonet.training.run_folder import Result
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import printable

_ELSEWHERE = "bring them back, or run this in the folder from which it was trained"


@dataclass(frozen=True)
class KnownData:
    """What is known of the data of a model."""

    owner: str
    """The model's name in messages."""
    source: str
    """What `load_data` takes."""
    fingerprint: str | None = None
    """What `DataSet.fingerprint` was, if it was recorded."""
    run: RunSection | None = None
    """The run that divided the data before their fingerprint was taken; None for undivided data."""
    label_pattern: str | None = None
    """What `load_data` takes, too."""

    def load(self, section: ModelSection, remedy: str = _ELSEWHERE, *, unchanged: bool = False) -> DataSet:
        """Load the data, undivided; a line on stderr says if they have changed.

        Args:
            section: the network that takes them.
            remedy: what to do if they are not there, for the message.
            unchanged: whether to refuse data that have changed.

        Raises:
            KilonetError: they are not there any more, or have changed.
        """
        try:
            data = load_data(self.source, Preprocessing.of(section), label_pattern=self.label_pattern)
        except KilonetError as error:
            raise KilonetError(f"the data of {self.owner}: {error}; {remedy}") from None
        self.check(data, unchanged=unchanged)
        return data

    def are(self, data: DataSet) -> bool:
        """Return whether data, undivided, are the recorded ones; True if nothing was recorded."""
        if self.fingerprint is None:
            return True
        return self.fingerprint == (divided(data, self.run) if self.run else data).fingerprint()

    def check(self, data: DataSet, *, unchanged: bool = False) -> None:
        """Say in a line on stderr if data, undivided, are not the recorded ones.

        Args:
            data: what was found.
            unchanged: whether to refuse others.

        Raises:
            KilonetError: they are others, which are refused.
        """
        if not self.are(data):
            line = f"{self.source} has changed since {self.owner} was made from it"
            if unchanged:
                raise KilonetError(
                    f"{line}, so which images it has not seen cannot be told; bring the images back, or train anew"
                )
            line += ", so images that it was trained on may be among those that are scored"
            print(printable(f"kilonet: {line}"), file=sys.stderr)


def data_of_run(result: Result, owner: str) -> KnownData:
    """Return what is known of the data of a run."""
    run = result.recipe.run
    return KnownData(owner, run.data, result.data_sha256, run, run.label_pattern)


def check_negatives(negatives: str | Path, data: str) -> None:
    """Check that images of none of the classes are not those of the classes.

    Raises:
        KilonetError: they are the same folder.
    """
    if Path(negatives).resolve() == Path(data).resolve():
        raise KilonetError(f"{negatives}: the data cannot be images of none of the classes as well")


def load_run_data(recipe: Recipe) -> DataSet:
    """Load the data that a recipe names, undivided, as its network takes them.

    Raises:
        KilonetError: they are not there, damaged, or have a class without images.
    """
    return load_data(recipe.run.data, Preprocessing.of(recipe.model), label_pattern=recipe.run.label_pattern)


def divided(data: DataSet, run: RunSection) -> DataSet:
    """Divide data into the images that a run trains on, those that it scores, and those that it calibrates on."""
    data = data.hold_out() if run.holdout else data
    return data if run.calibration is None else data.keep_aside(run.calibration)
