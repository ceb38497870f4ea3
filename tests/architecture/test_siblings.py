"""What the names of checkpoints say of which published model they are."""

from __future__ import annotations

import pytest

from lib_transfer.architecture import architectures
from lib_transfer.architecture.sampling import SAMPLINGS
from lib_transfer.architecture.siblings import SIBLINGS, named


@pytest.mark.parametrize(
    ("family", "name", "titles"),
    [
        ("sdxl", "waiIllustriousSDXL_v140", ["Illustrious"]),
        ("sdxl", "noobaiXLNAIXL_vPred10Version", ["NoobAI", "v-prediction"]),
        ("sdxl", "noobaiXL_vPred_10", ["NoobAI", "v-prediction"]),
        ("sdxl", "NoobAI-XL-v-pred-1.0", ["NoobAI", "v-prediction"]),
        ("sdxl", "ponyDiffusionV6XL", ["Pony"]),
        ("sdxl", "sdxl_lightning_4step", ["Lightning"]),
        ("sdxl", "Hyper-SDXL-8steps", ["Hyper"]),
        ("sdxl", "hyperrealism_v3", []),
        ("sdxl", "dreamshaperXL_v21TurboDPMSDE", []),
        ("sdxl", "dreamshaperXL_turbo", ["Turbo"]),
        ("sd1", "ponyville", []),
        ("sd1", "LCM_Dreamshaper_v7", ["LCM"]),
        ("anima", "anima-preview", ["preview"]),
        ("anima", "anima_preview2", ["preview"]),
        ("anima", "anima-base-v1.0", []),
        ("z-image", "z_image_turbo_bf16", ["Turbo"]),
        ("z-image", "z_image_base", ["base"]),
        ("flux2-klein-4b", "flux-2-klein-base-4b", ["base"]),
        ("flux2-klein-9b", "flux-2-klein-9b", []),
        ("wan-14b", "wan2.2_t2v_high_noise_14B_fp8_scaled", ["Wan 2.2", "high noise"]),
        ("wan-14b", "Wan2_1-T2V-14B_fp8", ["Wan 2.1"]),
        ("wan-14b", "wan22_t2v_low-noise", ["Wan 2.2", "low noise"]),
        ("qwen-image", "qwen_image_edit_2511", ["Edit"]),
        ("qwen-image", "Qwen-Image-Lightning-8steps", ["Lightning"]),
        ("flux-dev", "flux1-kontext-dev", ["Kontext"]),
        ("flux-dev", "flux1-schnell", ["schnell"]),
        ("krea-2", "krea2_raw", ["raw"]),
    ],
)
def test_what_a_name_says(family: str, name: str, titles: list[str]) -> None:
    assert [sibling.title for sibling in named(family, [name])] == titles


def test_each_architecture_is_told_how_it_is_run_and_no_other() -> None:
    assert set(SAMPLINGS) == {architecture.id for architecture in architectures()}


def test_families_of_siblings_exist() -> None:
    families = {architecture.family for architecture in architectures()}
    assert all(set(sibling.families) <= families for sibling in SIBLINGS)
