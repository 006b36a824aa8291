"""Loading whatever can classify: a trained model, or a folder that `kilonet export` wrote.

It stands between the core and the leaf that ships, so that neither has to know of the other.
"""

from pathlib import Path

from kilonet import model
from kilonet.model import Classifier


def load(source: str | Path) -> Classifier:
    """Load a model by packaged name, from a run folder, from a model file or from an exported folder.

    An exported folder runs its C, compiled now: load only folders that you trust.

    Raises:
        KilonetError: nothing there, or what is there is damaged or cannot be run here.
    """
    from kilonet.ship.description import DESCRIPTION_FILE  # noqa: PLC0415
    from kilonet.ship.exported import ExportedModel  # noqa: PLC0415

    folder = Path(source)
    if str(source) not in model.packaged_models() and (folder / DESCRIPTION_FILE).is_file():
        return ExportedModel(folder)
    return model.load(source)
