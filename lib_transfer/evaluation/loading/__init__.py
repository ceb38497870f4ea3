"""Checkpoints of Stable Diffusion 1, 2 and XL as running models, where there is no WebUI that has them.

The networks are those of ``diffusers`` and ``transformers``, an optional extra; their configurations are made here, from what is
known of the architectures and from the shapes of the weights, so nothing is downloaded. The weights are read one by one through
this package's readers, whatever the files look like.
"""

from lib_transfer.evaluation.loading.packages import need_packages
from lib_transfer.evaluation.loading.runner import DiffusersModels, family_of, loaded

__all__ = ["DiffusersModels", "family_of", "loaded", "need_packages"]
