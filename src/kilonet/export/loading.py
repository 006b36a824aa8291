"""Load a trained model, or a folder that `kilonet export` wrote."""

from pathlib import Path
from typing import TYPE_CHECKING

from kilonet.models import model

if TYPE_CHECKING:
    from kilonet.export.exported_model import ExportedModel


def load(source: str | Path) -> "model.Model | ExportedModel":
    """Load a model by packaged name, from a run folder, from a model file or from an exported folder.

    A folder with a `model.safetensors` is read from it, whatever else is there. Loading runs nothing from any file.

    Raises:
        KilonetError: there is no such model, or it is damaged.
    """
    folder = Path(source)
    if str(source) in model.packaged_models() or not folder.is_dir() or (folder / model.MODEL_FILE).exists():
        return model.load_model(source)
    # Only an exported folder needs these modules; loading a trained model by name does not wait for them.
    from kilonet.export.exported_model import ExportedModel  # noqa: PLC0415
    from kilonet.export.manifest import MANIFEST_FILE  # noqa: PLC0415

    return ExportedModel(folder) if (folder / MANIFEST_FILE).is_file() else model.load_model(source)
