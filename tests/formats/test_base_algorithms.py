"""Algorithms that need the base weight: deltas against what LyCORIS and PEFT run, and against dense formulas in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib_transfer.formats.adapter_file import read_adapter
from lib_transfer.formats.algorithms.dora import PER_OUTPUT

from .builders import accounted, random, save
from .trained import LAYERS, delta, error_of_forward, group_of, layer, trained

lycoris = pytest.importorskip("lycoris.modules")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
FORMS = pytest.mark.parametrize("form", LAYERS)


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def error(made: Any, base: Any, dtype: torch.dtype, tmp_path: Path, *, has: str = "") -> float:
    """Relative error of what a file that LyCORIS writes does to the layer."""
    tensors, change = trained(made, dtype)
    assert not has or has in tensors, sorted(tensors)
    group = group_of(tensors, tmp_path)
    assert group.misfit(tuple(base.weight.shape)) is None
    assert group.algorithm.needs_base
    return error_of_forward(group.update(base.weight.detach()), base, change)


INNER = {
    "lora": ("LoConModule", {"lora_dim": 3}),
    "loha": ("LohaModule", {"lora_dim": 3}),
    "lokr": ("LokrModule", {"lora_dim": 2, "factor": 4}),
    "whole lokr": ("LokrModule", {"lora_dim": 1000, "factor": 4, "full_matrix": True}),
}


@DTYPES
@FORMS
@pytest.mark.parametrize("on_output", [True, False])
@pytest.mark.parametrize("inner", INNER)
def test_dora_is_what_lycoris_runs(inner: str, on_output: bool, form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    kind, options = INNER[inner]
    base = layer(form)
    made = getattr(lycoris, kind)("x", base, 1.0, alpha=1.0, weight_decompose=True, wd_on_out=on_output, **options)
    assert made.dora_scale.shape[0] == (base.weight.shape[0] if on_output else 1)
    assert error(made, base, dtype, tmp_path, has="dora_scale") < 1e-5


@FORMS
@pytest.mark.parametrize("suffix", PER_OUTPUT)
def test_magnitudes_of_peft_and_ai_toolkit_are_per_output(suffix: str, form: str, tmp_path: Path) -> None:
    weight = layer(form).weight.detach()
    out, into, *kernel = weight.shape
    ones = [1] * len(kernel)
    magnitude = weight.flatten(1).norm(dim=1) * (1 + 0.1 * random(out, seed=3))
    shaped = magnitude.reshape(1, out, 1, 1) if kernel else magnitude
    up, down = random(out, 2, *ones, seed=1), random(2, into, *kernel, seed=2)
    group = group_of({"lora_up.weight": up, "lora_down.weight": down, suffix: shaped}, tmp_path)
    assert group.misfit(tuple(weight.shape)) is None
    w = weight.double().flatten(1)
    v = w + up.double().flatten(1) @ down.double().flatten(1)
    expected = v * (magnitude.double() / v.norm(dim=1))[:, None] - w
    assert relative(delta(group.update(weight)), expected) < 1e-5


@pytest.mark.parametrize("form", ["linear", "3x3"])
def test_dora_is_what_peft_merges(form: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = layer(form)
    before = base.weight.detach().clone()
    config = peft.LoraConfig(r=3, lora_alpha=5, use_dora=True, target_modules=["x"])
    model = peft.get_peft_model(nn.Sequential(nn.Identity(), nn.ModuleDict({"x": base})), config)
    for seed, (name, parameter) in enumerate(model.named_parameters()):
        if "lora_A" in name or "lora_B" in name:
            parameter.data = 0.3 * random(*parameter.shape, seed=seed)
        elif "magnitude" in name:
            parameter.data *= 1 + 0.2 * random(*parameter.shape, seed=seed)
    state = {key.split(".x.")[1]: value for key, value in peft.get_peft_model_state_dict(model).items()}
    tensors = {
        "lora_down.weight": state["lora_A.weight"],
        "lora_up.weight": state["lora_B.weight"],
        "lora_magnitude_vector": state["lora_magnitude_vector"],
        "alpha": torch.tensor(5.0),
    }
    merged = model.merge_and_unload()[1]["x"].weight.detach()
    got = delta(group_of(tensors, tmp_path).update(before))
    assert relative(got, (merged - before).double().flatten(1)) < 1e-5


@DTYPES
@FORMS
@pytest.mark.parametrize("on_input", [True, False])
def test_ia3_is_what_lycoris_runs(on_input: bool, form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = layer(form)
    made = lycoris.IA3Module("x", base, 1.0, train_on_input=on_input)
    assert error(made, base, dtype, tmp_path, has="on_input") < 1e-5


@DTYPES
@FORMS
def test_glora_is_what_lycoris_runs(form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = layer(form)
    made = lycoris.GLoRAModule("x", base, 1.0, lora_dim=3, alpha=2.0)
    assert error(made, base, dtype, tmp_path, has="b2.weight") < 1e-5


@FORMS
def test_glora_of_old_files(form: str, tmp_path: Path) -> None:
    weight = layer(form).weight.detach()
    out, into, *kernel = weight.shape
    a1, a2, b1, b2 = random(3, into, seed=1), random(into, 3, seed=2), random(3, into, *kernel, seed=3), random(out, 3)
    tensors = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(1.0)}
    group = group_of(tensors, tmp_path)
    assert group.misfit(tuple(weight.shape)) is None
    update = group.update(weight)
    behind = torch.einsum("oi...,ij->oj...", weight.double(), a2.double() @ a1.double()).flatten(1)
    expected = (behind + b2.double() @ b1.double().flatten(1)) / 3
    assert relative(delta(update), expected) < 1e-5
    assert update.rank is None
    assert update.factors is not None
    assert update.factors.rank == 3 * (1 + weight[0, 0].numel())


def test_glora_with_a_core(tmp_path: Path) -> None:
    weight = layer("3x3").weight.detach()
    a1, a2, b1, b2 = random(24, 3, seed=1), random(3, 24, seed=2), random(36, 3, seed=3), random(3, 24, 1, 1, seed=4)
    core = random(3, 3, 3, 3, seed=5)
    names = ("a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight")
    group = group_of(dict(zip(names, (a1, a2, b1, b2, core), strict=True)), tmp_path)
    assert group.misfit(tuple(weight.shape)) is None
    behind = torch.einsum("oikl,ij->ojkl", weight.double(), a1.double() @ a2.double())
    beside = torch.einsum("mnkl,im,nj->ijkl", core.double(), b1.double(), b2.double().flatten(1))
    assert relative(delta(group.update(weight)), (behind + beside).flatten(1)) < 1e-5


@DTYPES
@FORMS
@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("constraint", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize(("kind", "size"), [("DiagOFTModule", 4), ("ButterflyOFTModule", 8)])
def test_oft_and_boft_are_what_lycoris_runs(
    kind: str, size: int, constraint: float, rescaled: bool, form: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = layer(form, out=64)
    made = getattr(lycoris, kind)("x", base, 1.0, size, constraint=constraint, rescaled=rescaled)
    bound = torch.tensor(constraint).to(dtype)
    made.constraint = float(bound) * base.weight.shape[0]  # the bound as the file has it
    assert error(made, base, dtype, tmp_path, has="rescale" if rescaled else "oft_blocks") < (
        2e-5 if constraint else 1e-5
    )


@FORMS
@pytest.mark.parametrize("alpha", [1e-3, 1.0])
def test_oft_of_kohya(alpha: float, form: str, tmp_path: Path) -> None:
    """sd-scripts ``networks/oft.py``, written out."""
    weight = layer(form).weight.detach()
    blocks = 0.3 * random(4, weight.shape[0] // 4, weight.shape[0] // 4, seed=1)
    group = group_of({"oft_blocks": blocks, "alpha": torch.tensor(alpha)}, tmp_path)
    q = blocks.double() - blocks.double().mT
    constraint = float(torch.tensor(alpha)) * weight.shape[0]
    q = q * ((q.norm().clamp(max=constraint) + 1e-8) / (q.norm() + 1e-8))
    one = torch.eye(q.shape[-1], dtype=torch.float64)
    r = (one + q) @ (one - q).inverse()
    rows = weight.double().reshape(4, -1, weight[0].numel())
    expected = torch.einsum("knm,knp->kmp", r, rows).reshape(weight.shape[0], -1) - weight.double().flatten(1)
    assert relative(delta(group.update(weight)), expected) < 1e-5


@FORMS
def test_oft_of_old_files_is_the_rotation_itself(form: str, tmp_path: Path) -> None:
    weight = layer(form).weight.detach()
    r = random(4, weight.shape[0] // 4, weight.shape[0] // 4, seed=1)
    group = group_of({"oft_diag": r, "alpha": torch.tensor(float("inf"))}, tmp_path)
    rows = weight.double().reshape(4, -1, weight[0].numel())
    expected = torch.einsum("knm,knp->kmp", r.double(), rows).reshape(weight.shape[0], -1) - weight.double().flatten(1)
    assert relative(delta(group.update(weight)), expected) < 1e-5


@DTYPES
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("form", ["linear", "1x1", "3x3"])
def test_oft_is_what_peft_merges(form: str, share: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = layer(form)
    before = base.weight.detach().clone()
    config = peft.OFTConfig(oft_block_size=4, block_share=share, target_modules=["x"], use_cayley_neumann=True)
    config.r = 0
    model = peft.get_peft_model(nn.Sequential(nn.Identity(), nn.ModuleDict({"x": base})), config)
    for seed, (name, parameter) in enumerate(model.named_parameters()):
        if "oft_R" in name:
            parameter.data = (0.1 * random(*parameter.shape, seed=seed)).to(dtype).float()
    (triangles,) = (value for key, value in peft.get_peft_model_state_dict(model).items() if "oft_R" in key)
    assert triangles.shape == (1 if share else before[0].numel() // 4, 6)
    merged = model.merge_and_unload()[1]["x"].weight.detach()
    group = group_of({"oft_R.weight": triangles.to(dtype)}, tmp_path, "base_model.model.x")
    assert group.misfit(tuple(before.shape)) is None
    assert relative(delta(group.update(before)), (merged - before).double().flatten(1)) < 1e-5


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("form", ["linear", "1x1", "3x3"])
def test_oft_of_onetrainer(form: str, shared: bool, scaled: bool, tmp_path: Path) -> None:
    """OneTrainer ``modules/module/LoRAModule.py``: it turns the inputs of a linear layer, but a convolution's weight."""
    base = layer(form)
    weight = base.weight.detach()
    count = weight[0].numel() // 4
    triangles = 0.1 * random(1 if shared else count, 6, seed=1)
    tensors = {"oft_R.weight": triangles} | ({"oft_R.scaled_oft": torch.tensor(True)} if scaled else {})
    group = group_of(tensors, tmp_path)
    q = torch.zeros(len(triangles), 4, 4, dtype=torch.float64)
    rows, columns = torch.triu_indices(4, 4, 1)
    q[:, rows, columns] = triangles.double() / (2 * 3**0.5 if scaled else 1)
    q = q - q.mT
    one = torch.eye(4, dtype=torch.float64)
    turns = (one + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q).expand(count, 4, 4)
    matrix = weight.double().flatten(1)
    if form == "linear":
        inputs = torch.eye(24, dtype=torch.float64).reshape(24, count, 4)
        expected = torch.einsum("brk,rkc->brc", inputs, turns).reshape(24, 24) @ matrix.T
        expected = expected.T - matrix
    else:
        expected = torch.einsum("ork,rkc->orc", matrix.reshape(36, count, 4), turns).reshape(matrix.shape) - matrix
    assert group.misfit(tuple(weight.shape)) is None
    assert relative(delta(group.update(weight)), expected) < 1e-5


def test_oft_of_onetrainer_may_be_scaled(tmp_path: Path) -> None:
    weight = layer("linear").weight.detach()
    triangles = random(6, 6, seed=1)
    plain = group_of({"oft_R.weight": triangles / (2 * 3**0.5)}, tmp_path).update(weight)
    scaled = group_of({"oft_R.weight": triangles, "oft_R.scaled_oft": torch.tensor(True)}, tmp_path).update(weight)
    assert relative(delta(scaled), delta(plain)) < 1e-6
    unscaled = group_of({"oft_R.weight": triangles, "oft_R.scaled_oft": torch.tensor(False)}, tmp_path).update(weight)
    assert relative(delta(unscaled), delta(plain)) > 0.1


@pytest.mark.parametrize("suffix", ["set_weight", "scale"])
def test_a_weight_in_the_place_of_the_bases(suffix: str, tmp_path: Path) -> None:
    """The scales of normalisations in the control LoRAs of Black Forest Labs, and ComfyUI's ``set_weight``."""
    base, value = 1 + 0.1 * random(8, seed=1), random(8, seed=2, dtype=torch.float16)
    layer, name = "double_blocks.0.img_attn.qkv", "double_blocks.0.img_attn.norm.query_norm"
    factors = {"lora_A.weight": random(2, 4), "lora_B.weight": random(6, 2), "lora_B.bias": random(6, seed=3)}
    tensors = {f"{layer}.{key}": tensor for key, tensor in factors.items()}
    adapter = read_adapter(save(tmp_path / "a.safetensors", {**tensors, f"{name}.{suffix}": value}))
    assert accounted(adapter)
    assert not adapter.unsupported
    group = adapter.groups[name]
    assert group.misfit((8,)) is None
    assert group.misfit((9,)) == "its shape 8 does not fit the checkpoint's 9"
    update = group.update(base)
    assert update.bias is None
    assert update.weight is not None
    assert relative((base + update.weight).double(), value.double()) < 1e-6
    beside = adapter.groups[layer].update()
    assert beside.factors is not None
    assert beside.bias is not None
    assert torch.equal(beside.bias, random(6, seed=3))


def test_a_matrix_in_the_place_of_the_bases(tmp_path: Path) -> None:
    base, value = random(8, 3, 3, 3, seed=1), random(8, 3, 3, 3, seed=2)
    update = group_of({"set_weight": value}, tmp_path).update(base)
    assert relative(base.double().flatten(1) + delta(update), value.double().flatten(1)) < 1e-6


MISFITS: dict[str, dict[str, Tensor]] = {
    "dora": {"lora_up.weight": random(36, 2), "lora_down.weight": random(2, 24), "dora_scale": random(35, 1)},
    "dora, inside": {"lora_up.weight": random(35, 2), "lora_down.weight": random(2, 24), "dora_scale": random(36, 1)},
    "ia3": {"weight": random(36), "on_input": torch.tensor(1)},
    "glora": {
        "a1.weight": random(25, 2),
        "a2.weight": random(2, 25),
        "b1.weight": random(36, 2),
        "b2.weight": random(2, 25),
    },
    "oft": {"oft_blocks": random(5, 7, 7)},
    "boft": {"oft_blocks": random(1, 5, 8, 8)},
    "oft_R": {"oft_R.weight": random(5, 6)},
    "replaced": {"set_weight": random(36, 25)},
}


@pytest.mark.parametrize("tensors", MISFITS.values(), ids=MISFITS.keys())
def test_what_does_not_fit_the_weight_is_told(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    group = group_of(tensors, tmp_path)
    for shape in ((36, 24), (36,), (36, 24, 3, 3)):
        assert "fit the checkpoint's 36" in str(group.misfit(shape))


def test_a_weight_of_zeros_under_a_dora_stays_zero(tmp_path: Path) -> None:
    tensors = {"lora_up.weight": torch.zeros(4, 2), "lora_down.weight": random(2, 3), "dora_scale": 100 * random(4, 1)}
    assert not delta(group_of(tensors, tmp_path).update(torch.zeros(4, 3))).any()
