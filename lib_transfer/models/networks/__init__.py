"""The networks of Stable Diffusion 1, 2 and XL, made from the weights of a checkpoint; torch only.

The hosts run their own models. These are for the command line and for tests, where there is no host.
"""

from lib_transfer.models.networks.text import TextEncoder
from lib_transfer.models.networks.unet import UNet

__all__ = ["TextEncoder", "UNet"]
