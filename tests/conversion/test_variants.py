"""How a checkpoint is usually run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_transfer.conversion.variants import usual_size
from lib_transfer.library.base import open_base
from tests import tiny

TELLTALE = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


@pytest.mark.parametrize(
    ("architecture", "spread", "size"), [("sd1", 0.0, 512), ("sd2", 0.01, 512), ("sd2", 1.0, 768), ("sdxl", 0.0, 1024)]
)
def test_the_size_of_pictures_that_a_base_was_trained_on(
    architecture: str, spread: float, size: int, tmp_path: Path
) -> None:
    weights = tiny.weights(architecture, width=8)
    if spread:
        weights |= {TELLTALE: spread * torch.randn(weights[TELLTALE].shape)}
    with open_base(tiny.save(tmp_path / "base.safetensors", weights), "") as base:
        assert usual_size(base) == size
