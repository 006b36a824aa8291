"""Kilonet trains, proves and ships image classifiers of a few thousand parameters.

import kilonet

run = kilonet.fit(data="photos/")
answers = run.model.predict(["one.jpg", "two.jpg"])
answers.names, answers.probabilities, answers.none_of_these
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kilonet.data.datasets import DataSet, Images, load_data
    from kilonet.evaluation.scoring import Evaluation, evaluate
    from kilonet.export.loading import load
    from kilonet.models.model import Model, Predictions
    from kilonet.network.cost import NetworkCost, network_cost
    from kilonet.recipe import Recipe, load_recipe
    from kilonet.training.proposal import propose
    from kilonet.training.run_folder import Result, Run, read_result
    from kilonet.training.train import fit, resume
    from kilonet.utils.errors import KilonetError, TrainingDiverged

__version__ = "0.1.0"

_HOMES = {
    "NetworkCost": "kilonet.network.cost",
    "DataSet": "kilonet.data.datasets",
    "Evaluation": "kilonet.evaluation.scoring",
    "Images": "kilonet.data.datasets",
    "KilonetError": "kilonet.utils.errors",
    "Model": "kilonet.models.model",
    "Predictions": "kilonet.models.model",
    "Recipe": "kilonet.recipe",
    "Result": "kilonet.training.run_folder",
    "Run": "kilonet.training.run_folder",
    "TrainingDiverged": "kilonet.utils.errors",
    "network_cost": "kilonet.network.cost",
    "evaluate": "kilonet.evaluation.scoring",
    "fit": "kilonet.training.train",
    "load": "kilonet.export.loading",
    "load_data": "kilonet.data.datasets",
    "load_recipe": "kilonet.recipe",
    "propose": "kilonet.training.proposal",
    "read_result": "kilonet.training.run_folder",
    "resume": "kilonet.training.train",
}

__all__ = [
    "DataSet",
    "Evaluation",
    "Images",
    "KilonetError",
    "Model",
    "NetworkCost",
    "Predictions",
    "Recipe",
    "Result",
    "Run",
    "TrainingDiverged",
    "evaluate",
    "fit",
    "load",
    "load_data",
    "load_recipe",
    "network_cost",
    "propose",
    "read_result",
    "resume",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: most of them bring torch along, which takes a second."""
    if name not in _HOMES:
        msg = f"module 'kilonet' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
