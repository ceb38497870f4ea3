"""What the product does with a pair of running models: domain gap, imitation, gain. Nothing here knows the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lib_transfer.evaluation.gain import Gain, damage, gain
from lib_transfer.evaluation.gap import Strangeness, domain_gap, strangeness
from lib_transfer.evaluation.imitation import COST, imitate
from lib_transfer.evaluation.kept import Kept
from lib_transfer.evaluation.lessons import Course, decoded, encoded, pictures as made_by, teach
from lib_transfer.evaluation.losses import losses, predictions, probes
from lib_transfer.evaluation.student import begun, jobs_of
from lib_transfer.models import Model
from lib_transfer.models.sampling import runs as sampling_runs
from lib_transfer.progress import Silent
from lib_transfer.storage.cache import Cache
from lib_transfer.update import Updates
from tests.benchmarks.quality import pictures
from tests.benchmarks.quality.family import Base
