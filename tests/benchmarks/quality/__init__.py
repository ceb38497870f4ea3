"""Whether a transferred LoRA does its work, measured on a small family of models: ``python -m tests.benchmarks quality``."""

from tests.benchmarks.quality.run import run

__all__ = ["run"]
