"""Deltas of every form of every readable algorithm against dense formulas in float64, and against LyCORIS."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lib_transfer.errors import NumericError
from lib_transfer.formats.adapter_file import read_adapter
from lib_transfer.formats.algorithms import ALGORITHMS
from lib_transfer.update import Update

from .builders import accounted, lora, random, save

M = "lora_unet_x"


def update_of(tensors: dict[str, Tensor], tmp_path: Path) -> Update:
    adapter = read_adapter(save(tmp_path / "a.safetensors", {f"{M}.{key}": value for key, value in tensors.items()}))
    assert accounted(adapter)
    assert not adapter.unsupported, adapter.unsupported
    return adapter.groups[M].update()


def low_rank(tensors: dict[str, Tensor], tmp_path: Path) -> Update:
    update = update_of(tensors, tmp_path)
    assert update.factors is not None
    assert update.factors.up.dtype == update.factors.down.dtype == torch.float32
    assert update.factors.up.shape[1] == update.factors.down.shape[0] == update.rank
    return update


def delta(update: Update) -> Tensor:
    assert update.factors is not None
    return update.factors.up.double() @ update.factors.down.double()


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


UPS = {"2-D": (5, 2), "4-D": (5, 2, 1, 1)}
DOWNS = {"linear": (2, 3), "1x1": (2, 3, 1, 1), "3x3": (2, 3, 3, 3), "1x5": (2, 3, 1, 5)}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]


@pytest.mark.parametrize(("up_form", "down_form", "dtype"), list(itertools.product(UPS, DOWNS, DTYPES)))
def test_lora_of_every_shape_and_dtype(up_form: str, down_form: str, dtype: torch.dtype, tmp_path: Path) -> None:
    up, down = random(*UPS[up_form], seed=1).to(dtype), random(*DOWNS[down_form], seed=2).to(dtype)
    tensors = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(0.75)}
    update = low_rank(tensors, tmp_path)
    expected = torch.einsum("or,ri->oi", up.double().reshape(5, 2), down.double().reshape(2, -1)) * 0.75 / 2
    assert relative(delta(update), expected) < 1e-6
    assert update.notes == ()
    assert update.bias is None


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 3)])
@pytest.mark.parametrize("flat", [True, False])
def test_lora_mid_is_folded_into_the_factors(kernel: tuple[int, int], flat: bool, tmp_path: Path) -> None:
    up, mid, down = random(5, 4, seed=1), random(4, 4, *kernel, seed=2), random(4, 3, seed=3)
    square = () if flat else (1, 1)
    tensors = {
        "lora_up.weight": up.reshape(5, 4, *square),
        "lora_mid.weight": mid,
        "lora_down.weight": down.reshape(4, 3, *square),
        "alpha": torch.tensor(2.0),
    }
    update = low_rank(tensors, tmp_path)
    # The convolutions one after the other, as the network runs them, on every unit input.
    expected = torch.einsum("m n k l, i m, n j -> i j k l", mid.double(), up.double(), down.double()) * 2 / 4
    assert relative(delta(update), expected.reshape(5, -1)) < 1e-6
    image = random(1, 3, 7, 7, seed=4).double()
    inner = torch.nn.functional.conv2d(image, down.double().reshape(4, 3, 1, 1))
    inner = torch.nn.functional.conv2d(inner, mid.double())
    run = torch.nn.functional.conv2d(inner, up.double().reshape(5, 4, 1, 1)) / 2
    whole = torch.nn.functional.conv2d(image, delta(update).reshape(5, 3, *kernel))
    assert relative(whole, run) < 1e-6


ALPHAS = {
    "missing": (None, 1.0),
    "0-d": (torch.tensor(3.0), 1.5),
    "one element": (torch.tensor([3.0]), 1.5),
    "two brackets": (torch.tensor([[3.0]]), 1.5),
    "float16": (torch.tensor(0.1, dtype=torch.float16), 0.0999755859375 / 2),
    "bfloat16": (torch.tensor(3.0, dtype=torch.bfloat16), 1.5),
    "float64": (torch.tensor(3.0, dtype=torch.float64), 1.5),
    "float8": (torch.tensor(3.0).to(torch.float8_e4m3fn), 1.5),
    "int64": (torch.tensor(3), 1.5),
    "uint8": (torch.tensor(3, dtype=torch.uint8), 1.5),
    "negative": (torch.tensor(-3.0), -1.5),
    "huge": (torch.tensor(1e30), 5e29),
    "tiny": (torch.tensor(1e-30), 5e-31),
}


@pytest.mark.parametrize(("alpha", "scale"), ALPHAS.values(), ids=ALPHAS.keys())
def test_every_form_of_alpha(alpha: Tensor | None, scale: float, tmp_path: Path) -> None:
    tensors = {"lora_up.weight": random(5, 2, seed=1), "lora_down.weight": random(2, 3, seed=2)}
    expected = tensors["lora_up.weight"].double() @ tensors["lora_down.weight"].double() * scale
    update = low_rank(tensors if alpha is None else {**tensors, "alpha": alpha}, tmp_path)
    assert relative(delta(update), expected) < 1e-6
    assert update.notes == ()


def test_a_missing_alpha_changes_no_bit(tmp_path: Path) -> None:
    up = random(5, 2, seed=1)
    factors = low_rank({"lora_up.weight": up, "lora_down.weight": random(2, 3)}, tmp_path).factors
    assert factors is not None
    assert torch.equal(factors.up, up)


def test_alpha_0_is_kept_and_noted(tmp_path: Path) -> None:
    tensors = {"lora_up.weight": random(5, 2), "lora_down.weight": random(2, 3), "alpha": torch.tensor(0.0)}
    update = low_rank(tensors, tmp_path)
    assert not delta(update).any()
    assert update.notes == ("alpha is 0: this module does nothing.",)


def test_scale_overrides_alpha_and_scalar_multiplies(tmp_path: Path) -> None:
    tensors = {"lora_up.weight": random(5, 2, seed=1), "lora_down.weight": random(2, 3, seed=2)}
    plain = tensors["lora_up.weight"].double() @ tensors["lora_down.weight"].double()
    more = {"alpha": torch.tensor(0.0), "scale": torch.tensor(0.3), "scalar": torch.tensor([5.0])}
    update = low_rank({**tensors, **more}, tmp_path)
    assert relative(delta(update), plain * float(torch.tensor(0.3)) * 5) < 1e-6
    assert update.notes == ()
    update = low_rank({**tensors, "alpha": torch.tensor(1.0), "scalar": torch.tensor(5.0)}, tmp_path)
    assert relative(delta(update), plain * 2.5) < 1e-6


def test_large_factors_and_scales_do_not_overflow(tmp_path: Path) -> None:
    up, down = torch.full((5, 2), 6e4).half(), torch.full((2, 3), 6e4).half()
    update = low_rank({"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(1e9)}, tmp_path)
    assert relative(delta(update), up.double() @ down.double() * 5e8) < 1e-6
    one_sided = {"lora_up.weight": random(5, 2) * 1e30, "lora_down.weight": random(2, 3) * 1e-20}
    update = low_rank({**one_sided, "alpha": torch.tensor(1e12)}, tmp_path)
    assert update.factors is not None
    assert torch.isfinite(update.factors.up).all()


@pytest.mark.parametrize(
    "tensors",
    [
        {"lora_up.weight": random(5, 2) * 1e200, "lora_down.weight": random(2, 3)},
        {"lora_up.weight": random(5, 2).double() * 1e200, "lora_down.weight": random(2, 3)},
        {
            "lora_up.weight": random(5, 2),
            "lora_down.weight": random(2, 3),
            "alpha": torch.tensor(1e300).double() * 1e300,
        },
        {
            "lora_up.weight": random(5, 2),
            "lora_down.weight": random(2, 3),
            "alpha": torch.tensor(1e300, dtype=torch.float64),
        },
        {"diff": random(5, 2).double() * 1e200},
    ],
)
def test_what_does_not_fit_in_float32_is_an_error_that_names_it(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(NumericError, match=M):
        update_of(tensors, tmp_path)


def test_full_differences(tmp_path: Path) -> None:
    weight, bias = random(5, 3, 3, 3, seed=1, dtype=torch.float16), random(5, seed=2, dtype=torch.float16)
    both = update_of({"diff": weight, "diff_b": bias, "alpha": torch.tensor(7.0)}, tmp_path)
    assert both.stored
    assert both.weight is not None
    assert both.bias is not None
    assert torch.equal(both.weight, weight.float())
    assert torch.equal(both.bias, bias.float())
    alone = update_of({"diff_b": bias}, tmp_path)
    assert alone.stored
    assert not alone.changes_weight
    assert alone.bias is not None


def test_norms(tmp_path: Path) -> None:
    weight, bias = random(5, seed=1, dtype=torch.bfloat16), random(5, seed=2)
    both = update_of({"w_norm": weight, "b_norm": bias}, tmp_path)
    assert both.weight is not None
    assert both.bias is not None
    assert torch.equal(both.weight, weight.float())
    assert torch.equal(both.bias, bias)
    alone = update_of({"w_norm": weight}, tmp_path)
    assert alone.weight is not None
    assert alone.bias is None


@pytest.mark.parametrize("suffix", ["w_norm", "b_norm"])
def test_a_lone_vector_is_known_for_that_of_a_norm(suffix: str, tmp_path: Path) -> None:
    assert update_of({suffix: random(5)}, tmp_path).is_of_norm
    assert not update_of({"diff_b": random(5)}, tmp_path).is_of_norm


def test_a_bias_beside_the_factors_is_in_the_same_update(tmp_path: Path) -> None:
    tensors = {key.removeprefix(f"{M}."): value for key, value in lora(M).items()}
    bias = random(5, seed=9)
    update = low_rank({**tensors, "diff_b": bias}, tmp_path)
    assert update.bias is not None
    assert torch.equal(update.bias, bias)


def test_the_registry_says_everything_about_each_algorithm() -> None:
    assert len({algorithm.id for algorithm in ALGORITHMS}) == len(ALGORITHMS)
    for algorithm in ALGORITHMS:
        assert algorithm.title
        assert algorithm.suffixes == algorithm.signature | algorithm.optional
    assert {a.id for a in ALGORITHMS if not a.needs_base} == {"lora", "loha", "lokr", "norm", "full"}


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (3, 3, 3)])
@pytest.mark.parametrize("tucker", [False, True])
def test_lora_against_lycoris(shape: tuple[int, ...], tucker: bool, tmp_path: Path) -> None:
    locon = pytest.importorskip("lycoris.functional.locon")
    kernel = shape[1:]
    rank, scale = 4, 0.375
    if tucker and not kernel:
        pytest.skip("a linear layer has no core")
    square = (1,) * len(kernel)
    up, down = random(5, rank, *square, seed=1), random(rank, 3, *(square if tucker else kernel), seed=2)
    mid = random(rank, rank, *kernel, seed=3) if tucker else None
    expected = locon.diff_weight(down, up, mid, gamma=scale)
    tensors = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(scale * rank)}
    update = low_rank(tensors if mid is None else {**tensors, "lora_mid.weight": mid}, tmp_path)
    assert relative(delta(update), expected.reshape(5, -1).double()) < 1e-6


@pytest.mark.parametrize("kernel", [None, 3])
def test_biases_of_the_factors_change_the_layers_bias(kernel: int | None, tmp_path: Path) -> None:
    """The two layers that the factors are, one after the other, on any input."""
    torch.manual_seed(1)
    first: torch.nn.Module = torch.nn.Linear(3, 2) if kernel is None else torch.nn.Conv2d(3, 2, kernel)
    second: torch.nn.Module = torch.nn.Linear(2, 5) if kernel is None else torch.nn.Conv2d(2, 5, 1)
    tensors = {f"lora_down.{key}": value for key, value in first.state_dict().items()}
    tensors |= {f"lora_up.{key}": value for key, value in second.state_dict().items()}
    own = random(5, seed=9)
    update = low_rank({**tensors, "alpha": torch.tensor(0.5), "diff_b": own}, tmp_path)
    assert update.bias is not None
    x = random(4, 3, seed=2) if kernel is None else random(4, 3, 6, 6, seed=2)
    expected = second.double()(first.double()(x.double())).detach() * 0.25
    if kernel is None:
        got = x.double() @ delta(update).T + update.bias.double() - own.double()
    else:
        bias = update.bias.double() - own.double()
        got = torch.nn.functional.conv2d(x.double(), delta(update).reshape(5, 3, 3, 3), bias)
    assert relative(got, expected) < 1e-6


def test_factors_for_a_widened_weight_fit_no_other(tmp_path: Path) -> None:
    """``img_in`` of the control LoRAs for Flux: 128 inputs where the base has 64."""
    tensors = {"lora_B.weight": random(6, 2), "lora_A.weight": random(2, 128), "reshape_weight": torch.tensor([6, 128])}
    save(tmp_path / "a.safetensors", {f"img_in.{key}": value for key, value in tensors.items()})
    group = read_adapter(tmp_path / "a.safetensors").groups["img_in"]
    assert group.misfit((6, 128)) is None
    assert "padded to 6x128, and the checkpoint's is 6x64" in str(group.misfit((6, 64)))


@pytest.mark.parametrize("module", ["networks.lora", "networks.lora_fa", "networks.dylora", "lycoris.kohya"])
def test_ways_of_training_that_are_stored_alike(module: str, tmp_path: Path) -> None:
    """sd-scripts: LoRA-FA, DyLoRA and LoRA-C3Lier (3x3 convolutions) have LoRA's tensors, and nothing else."""
    up, down = random(5, 4, 1, 1, seed=1), random(4, 3, 3, 3, seed=2)
    tensors = {f"{M}.lora_up.weight": up, f"{M}.lora_down.weight": down, f"{M}.alpha": torch.tensor(2.0)}
    metadata = {"ss_network_module": module, "ss_network_args": '{"conv_dim": "4", "conv_alpha": "2", "unit": "2"}'}
    update = read_adapter(save(tmp_path / "a.safetensors", tensors, metadata)).groups[M].update()
    assert relative(delta(update), up.double().flatten(1) @ down.double().flatten(1) / 2) < 1e-6


def test_q_k_and_v_in_one_module_are_as_strong_as_the_file_says(tmp_path: Path) -> None:
    """sd-scripts' ``split_qkv`` keeps the alpha of one part for the rank of all: every reader divides by all of it."""
    up = torch.block_diag(*(random(4, 2, seed=seed) for seed in range(3)))
    down = random(6, 5, seed=3)
    update = low_rank({"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(1.0)}, tmp_path)
    assert relative(delta(update), up.double() @ down.double() / 6) < 1e-6


@pytest.mark.parametrize("conv", [False, True])
def test_dylora_of_lycoris(conv: bool, tmp_path: Path) -> None:
    modules = pytest.importorskip("lycoris.modules")
    made = modules.DyLoraModule("x", torch.nn.Conv2d(3, 5, 3) if conv else torch.nn.Linear(3, 5), lora_dim=8, alpha=2)
    for seed, parameter in enumerate([*made.up_list, *made.down_list]):
        parameter.data = random(*parameter.shape, seed=seed)
    down, up, _ = made.get_weight(made.lora_dim)  # its scale is that of a part of the rank
    tensors = {key: value.detach() for key, value in made.custom_state_dict().items()}
    assert relative(delta(low_rank(tensors, tmp_path)), up.detach().double() @ down.detach().double() * 2 / 8) < 1e-6


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 3, 3)])
def test_a_sparse_correction_is_added_to_the_weight(shape: tuple[int, ...], tmp_path: Path) -> None:
    up, down = random(5, 2, *(1,) * (len(shape) - 2), seed=1), random(2, *shape[1:], seed=2)
    places = torch.tensor([[0, 4, 4], [2, 0, 1]])
    places = torch.cat([places, torch.tensor([[1, 0, 2]] * (len(shape) - 2), dtype=torch.long).reshape(-1, 3)])
    tensors = {
        "lora_up.weight": up,
        "lora_down.weight": down,
        "alpha": torch.tensor(1.0),
        "bias_indices": places.to(torch.int16),
        "bias_values": random(3, seed=3, dtype=torch.float16),
        "bias_size": torch.tensor(shape, dtype=torch.int16),
    }
    expected = up.double().flatten(1) @ down.double().flatten(1) / 2
    with torch.sparse.check_sparse_tensor_invariants():
        expected += torch.sparse_coo_tensor(places, tensors["bias_values"].double(), shape).to_dense().flatten(1)
    update = update_of(tensors, tmp_path)
    assert update.weight is not None
    assert relative(update.weight.double(), expected) < 1e-6
    biased = update_of({**tensors, "lora_up.bias": torch.ones(5), "diff_b": torch.ones(5)}, tmp_path)
    torch.testing.assert_close(biased.bias, torch.full((5,), 1.5))  # alpha / rank times the one, and the other
    group = read_adapter(tmp_path / "a.safetensors").groups[M]
    assert group.misfit(shape) is None
    outside = {**tensors, "bias_indices": torch.full_like(tensors["bias_indices"], 5)}
    save(tmp_path / "b.safetensors", {f"{M}.{key}": value for key, value in outside.items()})
    assert "sparse" in str(read_adapter(tmp_path / "b.safetensors").groups[M].misfit(shape))
