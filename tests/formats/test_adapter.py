"""An adapter is read module by module; whatever is not read is reported, and other files are called what they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib_transfer.errors import BadFileError, NumericError, StorageError, TransferError, UnsupportedError
from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.adapter_file import open_adapter, outline_adapter, read_adapter
from lib_transfer.formats.checkpoint import Store
from lib_transfer.formats.description import describe
from lib_transfer.formats.unread import UNKNOWN

from .builders import accounted, entry, lora, random, raw, save

M, GOOD = "lora_unet_x", "lora_unet_good"


def read(tensors: dict[str, Tensor], tmp_path: Path) -> Adapter:
    adapter = read_adapter(save(tmp_path / "a.safetensors", tensors, {"ss_x": "1"}))
    assert accounted(adapter)
    assert adapter.metadata == {"ss_x": "1"}
    return adapter


def module(**tensors: Tensor) -> dict[str, Tensor]:
    return {f"{M}.{suffix.replace('__', '.')}": tensor for suffix, tensor in tensors.items()}


UP, DOWN, MID = random(5, 2), random(2, 3), random(2, 2, 3, 3)
BROKEN: dict[str, tuple[dict[str, Tensor], list[str]]] = {
    "up without down": (module(lora_up__weight=UP, alpha=torch.tensor(1.0)), ["lora_up.weight", "without lora_down"]),
    "down without up": (module(lora_down__weight=DOWN), ["lora_down.weight without lora_up.weight"]),
    "mid without both": (module(lora_mid__weight=MID), ["lora_up.weight and lora_down.weight"]),
    "alpha only": (module(alpha=torch.tensor(1.0)), ["without factors"]),
    "rank mismatch": (module(lora_up__weight=random(5, 3), lora_down__weight=DOWN), ["[5, 3]", "[2, 3]"]),
    "rank 0": (module(lora_up__weight=random(5, 0), lora_down__weight=random(0, 3)), ["[5, 0]", "[0, 3]"]),
    "no inputs": (module(lora_up__weight=UP, lora_down__weight=random(2, 0)), ["empty"]),
    "rank above the limit": (module(lora_up__weight=random(1, 4097), lora_down__weight=random(4097, 1)), ["4096"]),
    "mid of another rank": (
        module(lora_up__weight=UP, lora_down__weight=DOWN, lora_mid__weight=random(3, 3, 1, 1)),
        ["[3, 3, 1, 1]"],
    ),
    "flat mid": (module(lora_up__weight=UP, lora_down__weight=DOWN, lora_mid__weight=random(2, 2)), ["[2, 2]"]),
    "kernel beside mid": (
        module(lora_up__weight=UP, lora_down__weight=random(2, 3, 3, 3), lora_mid__weight=MID),
        ["kernel"],
    ),
    "kernel in up": (module(lora_up__weight=random(5, 2, 3, 3), lora_down__weight=DOWN), ["kernel"]),
    "1-D convolution": (
        module(lora_up__weight=random(5, 2, 1), lora_down__weight=random(2, 3, 3)),
        ["2-D or 3-D convolution"],
    ),
    "1-D factor": (module(lora_up__weight=UP, lora_down__weight=random(2)), ["[2]"]),
    "integer factors": (module(lora_up__weight=UP.to(torch.int64), lora_down__weight=DOWN), ["I64"]),
    "alpha per rank": (module(lora_up__weight=UP, lora_down__weight=DOWN, alpha=random(2)), ["alpha has shape [2]"]),
    "norm of two lengths": (module(w_norm=random(3), b_norm=random(4)), ["[3]", "[4]"]),
    "norm of a matrix": (module(w_norm=random(3, 3)), ["[3, 3]"]),
    "half a LoHa": (module(hada_w1_a=UP, hada_w1_b=DOWN), ["hada_w2_a and hada_w2_b of the LoHa missing"]),
    "LoHa with one core": (
        module(hada_w1_a=UP, hada_w1_b=DOWN, hada_w2_a=UP, hada_w2_b=DOWN, hada_t1=MID),
        ["Only one of hada_t1 and hada_t2"],
    ),
    "LoHa of two shapes": (
        module(hada_w1_a=UP, hada_w1_b=DOWN, hada_w2_a=random(6, 2), hada_w2_b=DOWN),
        ["w1_a [5, 2]", "w2_a [6, 2]"],
    ),
    "half a LoKr": (module(lokr_w1=UP, lokr_w2_a=UP, alpha=torch.tensor(1.0)), ["lokr_w2 must be there"]),
    "LoKr twice": (module(lokr_w1=UP, lokr_w1_a=UP, lokr_w1_b=DOWN, lokr_w2=UP), ["lokr_w1 must be there"]),
    "LoKr of two ranks": (module(lokr_w1=UP, lokr_w2_a=UP, lokr_w2_b=random(3, 3)), ["w2_a [5, 2]", "w2_b [3, 3]"]),
    "LoKr with another's core": (
        module(lokr_w1=UP, lokr_w2_a=DOWN, lokr_w2_b=DOWN, lokr_t2=random(3, 3, 3, 3)),
        ["core", "[3, 3, 3, 3]"],
    ),
    "sparse places without values": (
        module(lora_up__weight=UP, lora_down__weight=DOWN, bias_indices=torch.ones(2, 1, dtype=torch.int16)),
        ["bias_indices without bias_size and bias_values"],
    ),
    "a magnitude beside a difference": (module(diff=UP, dora_scale=random(5, 1)), ["magnitude", "without"]),
    "DoRA without factors": (module(dora_scale=random(5, 1), alpha=torch.tensor(1.0)), ["magnitude", "without"]),
    "DoRA with two magnitudes": (
        module(lora_up__weight=UP, lora_down__weight=DOWN, dora_scale=random(5, 1), magnitude=random(5)),
        ["dora_scale and magnitude"],
    ),
    "DoRA with a matrix": (
        module(lora_up__weight=UP, lora_down__weight=DOWN, dora_scale=random(5, 3)),
        ["dora_scale has shape [5, 3]"],
    ),
    "DoRA with half a LoRA": (module(lora_up__weight=UP, dora_scale=random(5, 1)), ["without lora_down"]),
    "IA3 without factors": (module(on_input=torch.tensor(1)), ["on_input without weight"]),
    "IA3 with a matrix": (module(on_input=torch.tensor(1), weight=random(2, 3)), ["weight has shape [2, 3]"]),
    "half a GLoRA": (module(a1__weight=UP, a2__weight=DOWN), ["b1.weight and b2.weight missing"]),
    "GLoRA of two ranks": (
        module(a1__weight=random(3, 2), a2__weight=random(2, 3), b1__weight=random(5, 2), b2__weight=random(4, 3)),
        ["ranks disagree", "b2.weight [4, 3]"],
    ),
    "OFT with oblong blocks": (module(oft_blocks=random(2, 3, 4), alpha=torch.tensor(0.0)), ["[2, 3, 4]"]),
    "OFT of another length": (module(oft_blocks=random(2, 3, 3), rescale=random(7, 1)), ["rescale has shape [7, 1]"]),
    "OFT twice": (module(oft_blocks=random(2, 3, 3), oft_diag=random(2, 3, 3)), ["both"]),
    "rescale only": (module(rescale=random(7, 1)), ["rescale without oft_blocks"]),
    "BOFT of odd blocks": (module(oft_blocks=random(2, 2, 3, 3)), ["butterflies"]),
    "BOFT of too many stages": (module(oft_blocks=random(4, 2, 4, 4)), ["butterflies"]),
    "PEFT OFT of no triangle": (module(oft_R__weight=random(2, 4)), ["triangles"]),
    "bias of another length": (
        module(lora_up__weight=UP, lora_down__weight=DOWN, lora_up__bias=random(4)),
        ["lora_up.bias has shape [4]", "5 numbers"],
    ),
    "bias of the other factor": (
        module(lora_up__weight=UP, lora_down__weight=DOWN, lora_down__bias=random(5)),
        ["lora_down.bias has shape [5]", "2 numbers"],
    ),
    "bias without factors": (module(lora_up__bias=random(5)), ["without the factors"]),
    "new shape without factors": (module(reshape_weight=torch.tensor([5, 6])), ["without the factors"]),
    "new shape of no shape": (
        module(lora_up__weight=UP, lora_down__weight=DOWN, reshape_weight=random(2)),
        ["reshape_weight is no list"],
    ),
    "replaced twice": (module(set_weight=random(5), scale=random(5)), ["both set_weight and scale"]),
    "empty replacement": (module(set_weight=random(0)), ["empty"]),
    "empty difference": (module(diff=random(0, 3)), ["empty"]),
    "integer difference": (module(diff=torch.ones(2, 2, dtype=torch.int64)), ["I64"]),
}


@pytest.mark.parametrize(("tensors", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_module_is_reported_and_the_others_are_read(
    tensors: dict[str, Tensor], words: list[str], tmp_path: Path
) -> None:
    adapter = read({**tensors, **lora(GOOD)}, tmp_path)
    assert set(adapter.groups) == {GOOD}
    (unread,) = adapter.unsupported
    assert (unread.name, unread.kind, set(unread.tensors)) == (M, "broken", set(tensors))
    assert all(word in unread.reason for word in words), unread.reason
    assert unread.reason.endswith(".")


UNSUPPORTED: dict[str, tuple[list[str], str]] = {
    "dynamic": ([f"{M}.dyn_up", f"{M}.dyn_down"], "dynamic"),
    "token embedding": (
        ["a.token_embedding.lora_embedding_A", "a.token_embedding.lora_embedding_B"],
        "token embedding",
    ),
    "token embedding of an adapter with a name": (["a.lora_embedding_A.default", "a.alpha"], "token embedding"),
    "adalora": (["a.b.lora_A", "a.b.lora_B", "a.b.lora_E", "a.b.ranknum"], "adalora"),
    "t-lora": ([f"{M}.q_layer.weight", f"{M}.p_layer.weight", f"{M}.lambda_layer", f"{M}.alpha"], "t-lora"),
    "ia3 of peft": (["base_model.model.a.to_q.ia3_l"], "peft"),
    "boft of peft": (["base_model.model.a.to_q.boft_R", "base_model.model.a.to_q.boft_s"], "peft"),
    "unknown": ([f"{M}.something", f"{M}.", M, "", "."], "unknown"),
}


@pytest.mark.parametrize(("keys", "kind"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_an_unsupported_algorithm_is_known_by_name(keys: list[str], kind: str, tmp_path: Path) -> None:
    adapter = read({**{key: random(2, 2) for key in keys}, **lora(GOOD)}, tmp_path)
    assert set(adapter.groups) == {GOOD}
    assert {unread.kind for unread in adapter.unsupported} == {kind}
    assert sorted(key for unread in adapter.unsupported for key in unread.tensors) == sorted(keys)
    if kind != "unknown":
        (unread,) = adapter.unsupported  # one module, one sentence
        assert unread.reason.count(".") >= 1


EXTRAS = [
    "bias",
    "diff",
    "whatever",
    "w_norm",
]


@pytest.mark.parametrize("suffix", EXTRAS)
def test_what_stands_beside_the_factors_is_reported(suffix: str, tmp_path: Path) -> None:
    adapter = read({**lora(M), f"{M}.{suffix}": random(5)}, tmp_path)
    assert set(adapter.groups) == {M}
    (unread,) = adapter.unsupported
    assert (unread.kind, unread.tensors) == ("extra", (f"{M}.{suffix}",))
    assert (unread.reason == UNKNOWN) == (suffix in {"whatever", "w_norm"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("suffix", ["lora_up.weight", "lora_down.weight", "alpha", "diff_b"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e5m2])
def test_a_number_that_is_none_stops_the_adapter(value: float, suffix: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {**lora(M), f"{M}.diff_b": random(5)}
    tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    spoiled = tensors[f"{M}.{suffix}"].float()
    spoiled.view(-1)[-1] = value
    tensors[f"{M}.{suffix}"] = spoiled.to(dtype)
    with pytest.raises(NumericError) as caught:
        read(tensors, tmp_path)
    assert f"{M}.{suffix}" in caught.value.message


FOREIGN: dict[str, tuple[list[str], str]] = {
    "sd1 checkpoint": (
        ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight"],
        "a full checkpoint",
    ),
    "sdxl text encoder": (["conditioner.embedders.0.transformer.text_model.final_layer_norm.bias"], "a text encoder"),
    "flux model": (["double_blocks.0.img_attn.qkv.weight", "img_in.weight"], "a diffusion model"),
    "diffusers unet": (["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"], "a diffusion model"),
    "vae": (["encoder.down.0.block.0.norm1.weight", "decoder.conv_in.weight"], "a VAE"),
    "vae of a checkpoint": (["first_stage_model.decoder.conv_in.weight"], "a VAE"),
    "text encoder": (["text_model.encoder.layers.0.self_attn.q_proj.weight"], "a text encoder"),
    "embedding": (["emb_params"], "a textual-inversion embedding"),
    "sdxl embedding": (["clip_l", "clip_g"], "a textual-inversion embedding"),
    "controlnet": (["control_model.input_hint_block.0.weight", "control_model.zero_convs.0.0.weight"], "a ControlNet"),
    "diffusers controlnet": (
        ["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"],
        "a ControlNet",
    ),
    "control-lora": (["lora_controlnet", "input_blocks.1.0.in_layers.2.up", "zero_convs.0.0.weight"], "a Control-LoRA"),
    "lllite": (["lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight"], "a ControlNet-LLLite"),
    "ip-adapter": (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "an IP-Adapter"),
    "face-id": (["ip_adapter.0.to_q_lora.down.weight", "image_proj.norm.weight"], "an IP-Adapter"),
    "t2i-adapter": (["body.0.block1.weight"], "a T2I-Adapter"),
    "llm lora": (["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"], "an adapter of a language model"),
    "llm": (["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"], "a language model"),
    "llm lora without a wrapper": (["transformer.h.0.attn.c_attn.lora_A.weight"], "an adapter of a language model"),
    "upscaler": (["conv_first.weight", "body.0.rdb1.conv1.weight"], "an upscaler"),
}


@pytest.mark.parametrize(("keys", "kind"), FOREIGN.values(), ids=FOREIGN.keys())
def test_another_kind_of_file_is_named_before_anything_is_loaded(
    keys: list[str], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "read", None)
    with pytest.raises(UnsupportedError, match=rf"is {kind}.*, not a LoRA") as caught:
        read({key: random(2, 2) for key in keys}, tmp_path)
    assert "a.safetensors" in caught.value.message


def test_a_file_of_unknown_names_is_no_lora(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"some\.thing"):
        read({"some.thing": random(2)}, tmp_path)


@pytest.mark.parametrize(
    "keys", [keys for keys, kind in UNSUPPORTED.values() if kind not in {"unknown", "peft", "t-lora"}]
)
def test_an_adapter_is_not_taken_for_another_kind(keys: list[str], tmp_path: Path) -> None:
    adapter = read({key: random(2, 2) for key in keys}, tmp_path)
    assert not adapter.groups
    assert adapter.unsupported


def test_more_tensors_than_an_adapter_has(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(raw({f"lora_unet_{n}.alpha": entry(shape=(0,), end=0) for n in range(20_001)}))
    with pytest.raises(BadFileError) as caught:
        read_adapter(path)
    assert caught.value.reason == "too_many"


def test_the_description_counts_what_there_is(tmp_path: Path) -> None:
    half = {key: tensor.half() for key, tensor in lora("lora_te1_a", rank=4).items()}
    conv = {"lora_unet_c.lora_up.weight": random(5, 4, 1, 1), "lora_unet_c.lora_down.weight": random(4, 3, 3, 3)}
    conv = {key: tensor.half() for key, tensor in conv.items()}
    core = {"odd_d.lora_up.weight": UP, "odd_d.lora_down.weight": DOWN, "odd_d.lora_mid.weight": MID}
    others = {"lora_unet_n.w_norm": random(4).half(), "lora_unet_h.dyn_up": UP.half(), "lora_unet_f.diff": UP.half()}
    told = describe(read({**half, **conv, **core, **others}, tmp_path))
    assert told.algorithms == {"LoRA / LoCon": 3, "normalisation difference": 1, "full difference": 1}
    assert told.ranks == {2: 1, 4: 2}
    assert told.convolutions == 2
    assert told.dtype == "F16"
    assert told.prefixes == {"lora_te1_": 1, "lora_unet_": 3, "other": 1}
    assert told.unread == {"dynamic": 1}


def test_the_header_alone_tells_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conv = {"lora_unet_c.lora_up.weight": UP, "lora_unet_c.lora_down.weight": random(2, 3, 3, 3)}
    whole = read({**lora(M), **conv, "lora_unet_n.w_norm": random(4), "lora_unet_h.dyn_up": UP}, tmp_path)
    monkeypatch.setattr(Store, "read", None)
    outline = outline_adapter(tmp_path / "a.safetensors")
    assert accounted(outline)
    assert describe(outline) == describe(whole)
    assert outline.unsupported == whole.unsupported
    (tmp_path / "empty").write_bytes(raw({}))
    with pytest.raises(BadFileError) as caught:
        outline_adapter(tmp_path / "empty")
    assert caught.value.reason == "empty"


def test_an_open_adapter_reads_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {**lora(M), **lora(GOOD), "bundle_emb.cat.clip_l": random(2, 4)}
    path = save(tmp_path / "a.safetensors", tensors)
    asked: list[str] = []
    plain = Store.read

    def read(self: Store, key: str, *more: Any) -> Tensor:
        asked.append(key)
        return plain(self, key, *more)

    monkeypatch.setattr(Store, "read", read)
    with open_adapter(path) as adapter:
        assert accounted(adapter)
        assert sorted(asked) == sorted(tensors)  # once, for NaN
        asked.clear()
        assert describe(adapter).ranks == {2: 2}
        assert asked == []
        adapter.groups[GOOD].update()
        assert sorted(asked) == [f"{GOOD}.{suffix}" for suffix in ("alpha", "lora_down.weight", "lora_up.weight")]
        assert torch.equal(adapter.embeddings["cat"]["clip_l"], tensors["bundle_emb.cat.clip_l"])
    with pytest.raises(StorageError, match="closed"):
        adapter.groups[M].update()


@pytest.mark.parametrize("by", ["another file", "other numbers"])
def test_an_open_adapter_that_changes_is_noticed(by: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", lora(M))
    other = save(tmp_path / "b.safetensors", {key: 2 * tensor for key, tensor in lora(M).items()})
    with open_adapter(path) as adapter:
        adapter.groups[M].update()
        other.replace(path) if by == "another file" else path.write_bytes(other.read_bytes())
        os.utime(path, ns=(1, 1))
        with pytest.raises(BadFileError) as caught:
            adapter.groups[M].update()
    assert caught.value.reason == "changed"


WHOLE = {**lora(M), **lora("lora_te_y", alpha=None), "lora_unet_n.w_norm": random(3), "lora_unet_n.b_norm": random(3)}
WHOLE |= {"lora_unet_c.lora_up.weight": UP, "lora_unet_c.lora_down.weight": DOWN, "lora_unet_c.lora_mid.weight": MID}


@pytest.mark.parametrize("missing", WHOLE)
def test_any_tensor_may_be_missing(missing: str, tmp_path: Path) -> None:
    adapter = read({key: tensor for key, tensor in WHOLE.items() if key != missing}, tmp_path)
    for group in adapter.groups.values():
        group.update()


NAMES = st.lists(
    st.sampled_from(
        [
            "lora_unet_a",
            "lora_unet_b",
            "unet",
            "a",
            "b",
            ".",
            "..",
            "lora_up.weight",
            "lora_down.weight",
            "lora_mid.weight",
            "alpha",
            "diff",
            "diff_b",
            "w_norm",
            "lora_A.weight",
            "dora_scale",
            "bundle_emb",
            "x_lora.up.weight",
            "on_input",
            "bias",
            "hada_w1_a",
            "weight",
            "magnitude",
            "rescale",
            "oft_blocks",
            "oft_R.weight",
            "lokr_w1",
            "lokr_w2",
        ]
    ),
    min_size=1,
    max_size=4,
).map(".".join)
SHAPES = st.lists(st.integers(0, 3), max_size=5)


@settings(max_examples=150)
@given(tensors=st.dictionaries(NAMES, SHAPES, min_size=1, max_size=8))
def test_every_tensor_is_read_or_reported(tensors: dict[str, list[int]], tmp_path: Path) -> None:
    try:
        adapter = read({key: torch.ones(shape) for key, shape in tensors.items()}, tmp_path)
    except TransferError:
        return
    for group in adapter.groups.values():
        if group.misfit((2, 2)) is None:
            group.update(torch.ones(2, 2))
