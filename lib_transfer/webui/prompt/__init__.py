"""Prompt time: a tag names a LoRA, and the copy for the checkpoint in use is what the program loads."""
