"""Files as PEFT and diffusers save them: every module's change is what the tool itself merges into the layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.adapter_file import read_adapter
from lib_transfer.update import Update

from .builders import accounted, random

peft = pytest.importorskip("peft", reason="the tools are not in this environment")
diffusers = pytest.importorskip("diffusers", reason="the tools are not in this environment")
safetensors_torch = pytest.importorskip("safetensors.torch")
state_dicts = pytest.importorskip("diffusers.utils.state_dict_utils")

TARGETS = ["to_q", "to_v", "to_out.0", "conv1", "ff.net.0.proj"]
CONFIGS: dict[str, dict[str, Any]] = {
    "alpha is the rank": {"r": 3, "lora_alpha": 3},
    "alpha": {"r": 4, "lora_alpha": 6},
    "rs-LoRA": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "patterns": {
        "r": 2,
        "lora_alpha": 1,
        "rank_pattern": {"attn1.to_q": 3, ".*attn2.*": 5, "conv1": 4},
        "alpha_pattern": {"to_q": 7, r"down_blocks\.1\..+to_v": 2, "resnets.0.conv1|ff.net.0.proj": 9},
    },
    "rs-LoRA with patterns": {"r": 2, "lora_alpha": 1, "use_rslora": True, "rank_pattern": {"to_q": 4}},
    "DoRA": {"r": 3, "lora_alpha": 5, "use_dora": True},
    "DoRA by rs-LoRA": {"r": 4, "lora_alpha": 5, "use_dora": True, "use_rslora": True},
    "bias": {"r": 3, "lora_alpha": 5, "lora_bias": True, "target_modules": ["to_out.0", "conv1"]},
}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
# Named as in DESIGN: the error of a file of either format, whose numbers the tool is given as they are rounded.
LIMIT = 1e-5


def unet() -> Any:
    torch.manual_seed(3)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )


def train(model: Any, dtype: torch.dtype) -> None:
    """Numbers in every tensor of the adapter, as ``dtype`` rounds them."""
    marks = ("lora_", "hada_", "lokr_", "oft_")
    for seed, (name, parameter) in enumerate(model.named_parameters()):
        if "magnitude" in name:
            parameter.data = (parameter.data * (1 + 0.2 * random(*parameter.shape, seed=seed))).to(dtype).float()
        elif any(mark in name for mark in marks):
            parameter.data = (0.3 * random(*parameter.shape, seed=seed)).to(dtype).float()


class Oracle:
    """What a tool's own ``merge`` changes: per path of a module the base's weight, and the changes of weight and bias."""

    def __init__(self, model: Any) -> None:
        layers = pytest.importorskip("peft.tuners.tuners_utils").BaseTunerLayer
        self.changes: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
        for path, layer in model.named_modules():
            if isinstance(layer, layers):
                base = layer.get_base_layer()
                before, bias = base.weight.detach().clone(), None if base.bias is None else base.bias.detach().clone()
                base.double()
                layer.merge()
                change = base.weight.detach() - before.double()
                moved = None if bias is None else base.bias.detach() - bias.double()
                self.changes[path] = before, change, moved
                layer.unmerge()
                base.float()
                base.weight.data = before

    def agrees(self, adapter: Adapter, prefix: str) -> None:
        """Raise if the adapter, whose names are the paths behind ``prefix``, does anything else."""
        assert accounted(adapter)
        assert not adapter.unsupported, adapter.unsupported
        assert set(adapter.groups) == {prefix + path for path in self.changes}
        for path, (base, change, bias) in self.changes.items():
            group = adapter.groups[prefix + path]
            assert group.misfit(tuple(base.shape)) is None
            update = group.update(base if group.algorithm.needs_base else None)
            assert relative(weight_of(update), change.flatten(1)) < LIMIT, path
            extra = None if update.factors is None else update.bias
            if extra is not None or (bias is not None and bias.abs().max() > 1e-9):
                assert bias is not None
                assert extra is not None, path
                assert relative(extra.double(), bias) < LIMIT, path


def weight_of(update: Update) -> Tensor:
    if update.factors is not None:
        return update.factors.up.double() @ update.factors.down.double()
    assert update.weight is not None
    return update.weight.double().flatten(1)


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def in_dtype(path: Path, dtype: torch.dtype) -> Path:
    """The same file with its numbers stored in ``dtype``."""
    with safetensors_torch.safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = {key: tensor.to(dtype) for key, tensor in safetensors_torch.load_file(path).items()}
    safetensors_torch.save_file(tensors, path, metadata)
    return path


def by_model(model: Any, folder: Path) -> tuple[Path, str]:
    """diffusers' ``save_lora_adapter``: no prefix, the configuration in the metadata."""
    model.save_lora_adapter(folder)
    return folder / "pytorch_lora_weights.safetensors", ""


def by_pipeline(model: Any, folder: Path) -> tuple[Path, str]:
    """diffusers' ``save_lora_weights`` as its training scripts call it."""
    diffusers.StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=peft.get_peft_model_state_dict(model),
        unet_lora_adapter_metadata=model.peft_config["default"].to_dict(),
    )
    return folder / "pytorch_lora_weights.safetensors", "unet."


@DTYPES
@pytest.mark.parametrize("save", [by_model, by_pipeline])
@pytest.mark.parametrize("config", CONFIGS)
def test_diffusers_saves_the_scale_in_the_metadata(
    config: str, save: Callable[[Any, Path], tuple[Path, str]], dtype: torch.dtype, tmp_path: Path
) -> None:
    model = unet()
    model.add_adapter(peft.LoraConfig(**{"target_modules": TARGETS, **CONFIGS[config]}))
    train(model, dtype)
    oracle = Oracle(model)
    path, prefix = save(model, tmp_path)
    oracle.agrees(read_adapter(in_dtype(path, dtype)), prefix)


@pytest.mark.parametrize("config", CONFIGS)
def test_peft_saves_it_beside_the_tensors(config: str, tmp_path: Path) -> None:
    model = peft.get_peft_model(unet(), peft.LoraConfig(**{"target_modules": TARGETS, **CONFIGS[config]}))
    train(model, torch.float32)
    oracle = Oracle(model.base_model.model)
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    oracle.agrees(read_adapter(path), "base_model.model.")
    # Under another name the configuration may be that of another file.
    renamed = read_adapter(path.rename(tmp_path / "renamed.safetensors"))
    group = renamed.groups[next(iter(renamed.groups))]
    assert group.scale is None


@pytest.mark.parametrize(
    "config",
    [
        peft.LoHaConfig(r=3, alpha=5, target_modules=TARGETS, alpha_pattern={"to_q": 2}),
        peft.LoHaConfig(r=3, alpha=5, target_modules=TARGETS, use_effective_conv2d=True),
        peft.LoKrConfig(r=2, alpha=5, target_modules=TARGETS, rank_pattern={"to_v": 1}),
        peft.LoKrConfig(r=100, alpha=50, target_modules=TARGETS),
        peft.LoKrConfig(r=1, alpha=5, target_modules=TARGETS, decompose_both=True, use_effective_conv2d=True),
        peft.OFTConfig(oft_block_size=4, target_modules=TARGETS),
        peft.OFTConfig(oft_block_size=4, target_modules=TARGETS, use_cayley_neumann=False),
    ],
    ids=["loha", "loha, cores", "lokr", "lokr, whole", "lokr, cores", "oft", "oft, exact"],
)
def test_other_algorithms_of_peft(config: Any, tmp_path: Path) -> None:
    model = peft.get_peft_model(unet(), config)
    train(model, torch.float32)
    oracle = Oracle(model.base_model.model)
    model.save_pretrained(tmp_path)
    oracle.agrees(read_adapter(tmp_path / "adapter_model.safetensors"), "base_model.model.")


def test_a_whole_state_holds_the_name_of_the_adapter(tmp_path: Path) -> None:
    model = peft.get_peft_model(unet(), peft.LoraConfig(r=3, lora_alpha=3, target_modules=TARGETS), "some_name")
    train(model, torch.float32)
    oracle = Oracle(model.base_model.model)
    state = {key: value.contiguous() for key, value in model.state_dict().items() if "lora_" in key}
    assert all(".some_name." in key for key in state)
    safetensors_torch.save_file(state, tmp_path / "a.safetensors")
    oracle.agrees(read_adapter(tmp_path / "a.safetensors"), "base_model.model.")


@pytest.mark.parametrize("convert", ["convert_state_dict_to_diffusers", "convert_unet_state_dict_to_peft"])
def test_names_of_older_diffusers(convert: str, tmp_path: Path) -> None:
    """diffusers' own conversions, from PEFT's names to its older ones and back."""
    model = peft.get_peft_model(unet(), peft.LoraConfig(r=3, lora_alpha=3, target_modules=TARGETS))
    train(model, torch.float32)
    state = {
        key.removeprefix("base_model.model."): value for key, value in peft.get_peft_model_state_dict(model).items()
    }
    older = state_dicts.convert_state_dict_to_diffusers(state)
    assert any(key.endswith(".lora.up.weight") for key in older)
    kept = older if convert.endswith("diffusers") else state_dicts.convert_unet_state_dict_to_peft(older)
    safetensors_torch.save_file(kept, tmp_path / "a.safetensors")
    Oracle(model.base_model.model).agrees(read_adapter(tmp_path / "a.safetensors"), "")


def test_processors_of_diffusers_0_16(tmp_path: Path) -> None:
    """``to_q_lora`` in an attention's processor: what diffusers turns into PEFT's names has the same factors."""
    state = {
        f"unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.{part}_lora.{side}.weight": random(
            *((5, 2) if side == "up" else (2, 3)), seed=seed
        )
        for seed, (part, side) in enumerate(
            [(p, s) for p in ("to_q", "to_k", "to_v", "to_out") for s in ("up", "down")]
        )
    }
    safetensors_torch.save_file(state, tmp_path / "a.safetensors")
    adapter = read_adapter(tmp_path / "a.safetensors")
    modern = state_dicts.convert_unet_state_dict_to_peft(state)
    for name, group in adapter.groups.items():
        path = name.replace(".processor.", ".").removesuffix("_lora").replace("to_out", "to_out.0")
        expected = modern[f"{path}.lora_B.weight"].double() @ modern[f"{path}.lora_A.weight"].double()
        assert relative(weight_of(group.update()), expected) < LIMIT
    assert len(adapter.groups) == 4


BROKEN: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "no JSON"),
    "a list": ("[]", "no JSON object"),
    "a text for alpha": (json.dumps({"unet.lora_alpha": "much", "unet.r": 4}), "lora_alpha is much"),
    "no number": ('{"unet.lora_alpha": NaN, "unet.r": 4}', "lora_alpha is nan"),
    "a pattern to run": (
        json.dumps({"unet.lora_alpha": 1, "unet.r": 4, "unet.alpha_pattern": {"(a+)+$": 3}}),
        "'(a+)+$', which is not understood",
    ),
    "patterns of no kind": (json.dumps({"unet.lora_alpha": 1, "unet.alpha_pattern": [1]}), "alpha_pattern is no JSON"),
    "deep": ("[" * 100_000, "no JSON"),
}


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_scale_that_cannot_be_told_is_not_guessed(text: str, words: str, tmp_path: Path) -> None:
    factors = {"unet.a.to_q.lora_A.weight": random(2, 3), "unet.a.to_q.lora_B.weight": random(5, 2)}
    own = {"text_encoder.a.lora_A.weight": random(2, 3), "text_encoder.a.lora_B.weight": random(5, 2)}
    own["text_encoder.a.alpha"] = torch.tensor(1.0)
    safetensors_torch.save_file({**factors, **own}, tmp_path / "a.safetensors", {"lora_adapter_metadata": text})
    adapter = read_adapter(tmp_path / "a.safetensors")
    assert set(adapter.groups) == {"text_encoder.a"}
    (unread,) = adapter.unsupported
    assert (unread.name, unread.kind) == ("unet.a.to_q", "broken")
    assert words in unread.reason


def test_each_component_has_its_own_scale_and_alpha_goes_before_it(tmp_path: Path) -> None:
    names = ["unet.a", "text_encoder.a", "text_encoder_2.a", "lora_unet_a", "transformer.a"]
    tensors = {f"{name}.lora_A.weight": random(4, 3, seed=1) for name in names}
    tensors |= {f"{name}.lora_B.weight": random(5, 4, seed=2) for name in names}
    tensors["text_encoder_2.a.alpha"] = torch.tensor(1.0)
    said = {"unet.lora_alpha": 8, "unet.r": 4, "text_encoder.lora_alpha": 2, "text_encoder_2.lora_alpha": 8}
    safetensors_torch.save_file(tensors, tmp_path / "a", {"lora_adapter_metadata": json.dumps(said)})
    adapter = read_adapter(tmp_path / "a")
    plain = random(5, 4, seed=2).double() @ random(4, 3, seed=1).double()
    for name, scale in zip(names, [2.0, 0.5, 0.25, 1.0, 1.0], strict=True):
        assert relative(weight_of(adapter.groups[name].update()), plain * scale) < LIMIT


def test_layers_have_every_kind_of_weight_that_is_adapted() -> None:
    """The tiny model is no easier than a real one: linear layers, and convolutions of 3x3."""
    kinds = {(type(m), m.weight.shape[2:]) for n, m in unet().named_modules() if n.endswith(tuple(TARGETS))}
    assert kinds == {(nn.Linear, torch.Size([])), (nn.Conv2d, torch.Size([3, 3]))}
