"""What an adapter was made for: names and shapes decide, metadata only where these do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_transfer.formats.adapter_file import outline_adapter
from lib_transfer.library.inspection import identify
from tests import tiny

SHARED = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
CROSS = SHARED.replace("attn1_to_q", "attn2_to_k")


@pytest.mark.parametrize(
    ("name", "shape", "metadata", "expected"),
    [
        (CROSS, (640, 768), {}, {"sd1"}),
        (CROSS, (640, 1024), {}, {"sd2"}),
        (CROSS, (640, 2048), {}, {"sdxl"}),
        (CROSS, (640, 768), {"ss_base_model_version": "sdxl_base_v1-0"}, {"sd1"}),
        (SHARED, (640, 640), {"ss_base_model_version": "sd_v2"}, {"sd2"}),
        (SHARED, (640, 640), {"modelspec.architecture": "stable-diffusion-v1/lora"}, {"sd1"}),
        (SHARED, (640, 640), {"ss_base_model_version": "flux1"}, {"sd1", "sd2", "sdxl"}),
        (SHARED, (640, 640), {}, {"sd1", "sd2", "sdxl"}),
    ],
)
def test_identify(
    name: str, shape: tuple[int, int], metadata: dict[str, str], expected: set[str], tmp_path: Path
) -> None:
    path = tiny.save(tmp_path / "a.safetensors", tiny.factors(name, shape), metadata=metadata)
    assert {architecture.id for architecture in identify(outline_adapter(path)).architectures} == expected
