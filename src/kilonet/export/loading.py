"""Loading whatever can classify: a trained model, or a folder that `kilonet export` wrote.

It stands between the core and the leaf that ships, so that neither has to know of the other.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from kilonet.models import model

if TYPE_CHECKING:
    from kilonet.export.exported_model import ExportedModel


def load(source: str | Path) -> "model.Model | ExportedModel":
    """Load a model by packaged name, from a run folder, from a model file or from an exported folder.

    An exported folder runs its C, compiled now: load only folders that you trust.

    Raises:
        KilonetError: nothing there, or what is there is damaged or cannot be run here.
    """
    folder = Path(source)
    if str(source) in model.packaged_models() or not folder.is_dir():
        return model.load_model(source)
    # Only a folder needs the leaf: whoever loads a trained model by name does not wait for it.
    from kilonet.export.exported_model import ExportedModel  # noqa: PLC0415
    from kilonet.export.manifest import MANIFEST_FILE  # noqa: PLC0415

    return ExportedModel(folder) if (folder / MANIFEST_FILE).is_file() else model.load_model(source)
