"""What a person has: adapters, checkpoints, where each adapter comes from, what was transferred already."""
