"""What only one of the transformers since Anima has: parts that no program loads, differences beside factors, joined weights."""

from __future__ import annotations

from pathlib import Path

import torch

import lib_transfer
from tests import tiny
from tests.balance import need_balance
from tests.transfer import hosts
from tests.transfer.families import ALL, named
from tests.transfer.transformers import CORE, WIDTH, Bases, adapter_of, reused


def test_gemma_is_read_and_not_written(bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path) -> None:
    """Forge Neo and ComfyUI have no name in common, and kohya's would be too many that Forge Neo does not know."""
    [path, _], [weights, _] = bases("lumina-2")
    made, _ = adapter_of(dict(named("lumina-2", "kohya", 0)), weights)
    shape = weights["text_encoders.gemma2_2b.transformer.model.layers.3.mlp.up_proj.weight"].shape
    made |= tiny.factors("lora_te_layers_3_mlp_up_proj", shape)
    file = tiny.save(tmp_path / "style.safetensors", made)
    request = lib_transfer.request(file, target=path, runtime=runtime, method="reuse")
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.report is not None
    need_balance(result.report)
    assert not [name for name in hosts.read(result.path).names if not name.startswith("lora_unet_layers_0_")]
    [reason] = {module.reason for module in result.report.modules if not module.written}
    assert reason == "no name of it is loaded by both Forge Neo and ComfyUI"


def test_what_distilled_wan_loras_change_beside_factors(
    bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    """lightx2v's: differences of norms, of biases and of the modulations, which both programs add as they are."""
    [path, _], [weights, _] = bases("wan-14b")
    generator = torch.Generator().manual_seed(5)
    changes = {
        "blocks.3.norm3.diff": "blocks.3.norm3.weight",
        "blocks.3.norm3.diff_b": "blocks.3.norm3.bias",
        "blocks.5.self_attn.norm_q.diff": "blocks.5.self_attn.norm_q.weight",
        "blocks.7.self_attn.q.diff_b": "blocks.7.self_attn.q.bias",
        "blocks.9.modulation.diff": "blocks.9.modulation",
        "head.modulation.diff": "head.modulation",
        "head.head.diff": "head.head.weight",
        "head.head.diff_b": "head.head.bias",
    }
    made = {
        f"diffusion_model.{name}": torch.randn(weights[CORE + key].shape, generator=generator)
        for name, key in changes.items()
    }
    made |= tiny.factors("lora_unet_blocks_7_self_attn_q", (WIDTH, WIDTH))
    made["lora_unet_blocks_7_self_attn_q.diff_b"] = made.pop("diffusion_model.blocks.7.self_attn.q.diff_b")
    first = weights[f"{CORE}patch_embedding.weight"].shape
    made |= tiny.factors("diffusion_model.patch_embedding", first)
    written = reused(tiny.save(tmp_path / "style.safetensors", made), path, runtime)
    tensors = written.tensors
    assert torch.equal(tensors["lora_unet_blocks_7_self_attn_q.diff_b"], made["lora_unet_blocks_7_self_attn_q.diff_b"])
    for name in ("blocks.9.modulation", "head.modulation"):
        assert torch.equal(tensors[f"diffusion_model.{name}.diff"], made[f"diffusion_model.{name}.diff"])
    for name, kohya in (("blocks.3.norm3", "blocks_3_norm3"), ("head.head", "head_head")):
        for end in (".diff", ".diff_b"):
            assert torch.equal(tensors[f"lora_unet_{kohya}{end}"], made[f"diffusion_model.{name}{end}"])
    norm = made["diffusion_model.blocks.5.self_attn.norm_q.diff"]
    assert torch.equal(tensors["lora_unet_blocks_5_self_attn_norm_q.diff"], norm)
    down = tensors["lora_unet_patch_embedding.lora_down.weight"]
    assert down.shape[1:] == first[1:] and tensors["lora_unet_patch_embedding.lora_up.weight"].ndim == len(first)
    given = tiny.factors("diffusion_model.patch_embedding", first)
    expected = hosts.delta({key.removeprefix("diffusion_model.patch_embedding."): t for key, t in given.items()})
    assert (hosts.delta(written.names["lora_unet_patch_embedding"]) - expected).norm() <= 1e-5 * expected.norm()
    assert len(tensors) == len(made)


def test_what_only_the_first_wan_has_does_not_go_to_the_second(
    bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    """From 2.1's model that begins with a picture to 2.2's: the layers that read it by CLIP are not there."""
    [source, _], [weights, _] = bases("wan-i2v-14b")
    [target, _], _ = bases("wan-14b")
    changes = {
        f"diffusion_model.blocks.0.cross_attn.{word}": (f"blocks.0.cross_attn.{word}", ALL) for word in ("q", "k_img")
    }
    made, _ = adapter_of(changes, weights)
    request = lib_transfer.request(
        tiny.save(tmp_path / "style.safetensors", made), source=source, target=target, runtime=runtime, threshold=0.0
    )
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.report is not None and result.path is not None
    assert hosts.read(result.path).names.keys() == {"lora_unet_blocks_0_cross_attn_q"}
    [left] = [module for module in result.report.modules if not module.written]
    assert left.decision == "no counterpart" and left.name.endswith("k_img")


def test_joined_projections_are_cut_without_loss(bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path) -> None:
    """SimpleTuner's for Krea 2, whose keys are a quarter as wide as queries; the scale of a norm has a dotted name."""
    [path, _], [weights, _] = bases("krea-2")
    width = weights[f"{CORE}blocks.0.attn.wq.weight"].shape[1]
    rows = width + 2 * (width // 4)
    name = "transformer.transformer_blocks.2.attn.to_qkv"
    made = tiny.factors(name, (rows, width))
    norm = weights[f"{CORE}blocks.1.prenorm.scale"]
    made["diffusion_model.blocks.1.prenorm.scale.diff"] = torch.linspace(-1, 1, len(norm))
    written = reused(tiny.save(tmp_path / "style.safetensors", made), path, runtime)
    whole = hosts.delta({key.removeprefix(f"{name}."): tensor for key, tensor in made.items() if name in key})
    edges = (0, width, width + width // 4, rows)
    for number, word in enumerate("qkv"):
        part = whole[edges[number] : edges[number + 1]]
        delta = hosts.delta(written.names[f"lora_unet_blocks_2_attn_w{word}"])
        assert (delta - part).norm() <= 1e-5 * part.norm()
    scale = "diffusion_model.blocks.1.prenorm.scale.diff"
    assert torch.equal(written.tensors[scale], made[scale])


def test_what_stands_beside_joined_projections_does_not_take_their_place(
    bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    """SimpleTuner writes groups of each projection that change nothing; it is said that they are left out."""
    [path, _], [weights, _] = bases("krea-2")
    width = weights[f"{CORE}blocks.0.attn.wq.weight"].shape[1]
    attention = "transformer.transformer_blocks.2.attn"
    made = tiny.factors(f"{attention}.to_qkv", (width + 2 * (width // 4), width))
    for word, rows in (("q", width), ("k", width // 4), ("v", width // 4)):
        made |= tiny.factors(f"{attention}.to_{word}", (rows, width), size=0.0)
    file = tiny.save(tmp_path / "style.safetensors", made)
    request = lib_transfer.request(file, target=path, runtime=runtime, method="reuse", rank="full", dtype="fp32")
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.path is not None and result.report is not None
    need_balance(result.report)
    whole = hosts.delta({key.removeprefix(f"{attention}.to_qkv."): t for key, t in made.items() if "to_qkv" in key})
    written = hosts.read(result.path).deltas()
    found = torch.cat([written[f"lora_unet_blocks_2_attn_w{word}"] for word in "qkv"])
    assert (found - whole).norm() <= 1e-5 * whole.norm()
    left = {module.name: module.reason for module in result.report.modules if not module.written}
    assert left == {
        f"{attention}.to_{word}": "another group of the adapter already changes this module" for word in "qkv"
    }


def test_a_batch_takes_the_loras_of_its_target(bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path) -> None:
    """Each in the names of another tool; those for other models are left out, with their names."""
    families = {"anima": "diffusers", "z-image": "musubi-tuner, OneTrainer", "lumina-2": "kohya"}
    for base, family in families.items():
        made, _ = adapter_of(dict(named(base, family, 3)), bases(base)[1][0])
        tiny.save(tmp_path / f"{base}.safetensors", made)
    [source, target], _ = bases("z-image")
    report = lib_transfer.batch(
        [tmp_path], source=source, target=target, runtime=runtime, output=tmp_path / "out", threshold=0.0
    )
    assert report.counts == {"written": 1, "left out": 2}
    assert [path.stem.partition("_")[0] for path in (tmp_path / "out").iterdir()] == ["z-image"]
