"""Rewrites prompts so that the program loads the LoRA that was transferred to the checkpoint in use."""
