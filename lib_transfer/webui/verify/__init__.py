"""The panel that verifies a transferred LoRA by running both checkpoints."""
