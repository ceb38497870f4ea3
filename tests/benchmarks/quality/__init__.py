"""Whether a transferred LoRA does its work, measured on a small family of models: ``python -m tests.benchmarks quality``."""
