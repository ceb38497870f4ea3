"""Running models: predict, put an adapter on and take it off exactly, look inside. Knows torch, and no WebUI."""

from lib_transfer.running.apply import Change, applied
from lib_transfer.running.inputs import Inputs
from lib_transfer.running.latents import LatentMap
from lib_transfer.running.model import Model, TorchModel
from lib_transfer.running.place import Place, places
from lib_transfer.running.record import seen
from lib_transfer.running.sampling import sample
from lib_transfer.running.schedule import Schedule

__all__ = [
    "Change",
    "Inputs",
    "LatentMap",
    "Model",
    "Place",
    "Schedule",
    "TorchModel",
    "applied",
    "places",
    "sample",
    "seen",
]
