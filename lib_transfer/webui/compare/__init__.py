"""Pictures with one prompt and seed: without a LoRA, with the original, and with the transferred LoRA."""
