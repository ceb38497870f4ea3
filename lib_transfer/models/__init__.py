"""Running models: predict, put an adapter on and take it off exactly. Knows torch, and no WebUI."""

from lib_transfer.models.apply import Place, applied, places
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.model import Model, TorchModel
from lib_transfer.models.sampling import sample
from lib_transfer.models.schedule import Schedule

__all__ = [
    "Inputs",
    "Model",
    "Place",
    "Schedule",
    "TorchModel",
    "applied",
    "places",
    "sample",
]
