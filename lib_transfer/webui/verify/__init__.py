"""Verify a transferred LoRA in the tab: run both checkpoints, and say whether it does its work on the target."""
