"""Compare: the same prompt and seed without a LoRA, with it, and with its copy, side by side."""
