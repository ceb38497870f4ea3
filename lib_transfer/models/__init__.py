"""Running models: predict, put an adapter on and take it off exactly, look inside. Knows torch, and no WebUI."""

from lib_transfer.models.apply import Place, applied, places
from lib_transfer.models.hooks import watched
from lib_transfer.models.inputs import Inputs
from lib_transfer.models.latents import LatentMap
from lib_transfer.models.model import Model, TorchModel
from lib_transfer.models.sampling import sample
from lib_transfer.models.schedule import Schedule

__all__ = [
    "Inputs",
    "LatentMap",
    "Model",
    "Place",
    "Schedule",
    "TorchModel",
    "applied",
    "places",
    "sample",
    "watched",
]
