"""Updates that are no LoRA, from file to file: what is written is the method's dense formula, of the rank that was promised."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import lib_transfer
from lib_transfer import Destination, Runtime
from lib_transfer.architecture import modules
from lib_transfer.architecture.module import Module
from lib_transfer.conversion import compact
from lib_transfer.conversion.report import ModuleReport, TransferReport
from lib_transfer.errors import NumericError

from .. import tiny

Tensors = dict[str, Tensor]
ENERGY = 0.9
ROLES = {"linear": "attn1.to_q", "wide": "ff.net.0.proj", "1x1": "proj_in", "3x3": "conv1", "text": "mlp.fc1"}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclasses.dataclass(frozen=True)
class World:
    """Two checkpoints, their weights as they are on disk, and one module of each kind."""

    folder: Path
    base: Path
    other: Path
    weights: Tensors
    others: Tensors
    modules: dict[str, Module]

    def weight(self, form: str, method: str) -> Tensor:
        """The weight that an update is computed with: for plain reuse the source is not known."""
        return (self.others if method == "reuse" else self.weights)[self.modules[form].weight].double()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    weights = tiny.weights("sd1", width=32)
    base = tiny.save(folder / "base.safetensors", weights, torch.float16)
    other = tiny.save(folder / "other.safetensors", tiny.fine_tuned(weights, 0.2), torch.float16)
    found = modules(tiny.architecture("sd1"), {key: tuple(w.shape) for key, w in weights.items()})
    chosen = {form: next(m for m in found if m.position.role == role) for form, role in ROLES.items()}
    return World(folder, base, other, load_file(base), load_file(other), chosen)


@dataclasses.dataclass(frozen=True)
class Result:
    """What was written and what was said."""

    tensors: Tensors
    report: TransferReport

    def of(self, module: Module) -> ModuleReport:
        return next(m for m in self.report.modules if m.name == module.output_name)

    def delta(self, module: Module) -> Tensor:
        """The change of the weight as a host computes it, as a matrix in float64."""
        name = module.output_name
        if f"{name}.diff" in self.tensors:
            assert tuple(self.tensors[f"{name}.diff"].shape) == module.shape
            return self.tensors[f"{name}.diff"].double().flatten(1)
        up, down, alpha = (self.tensors[f"{name}.{s}"] for s in ("lora_up.weight", "lora_down.weight", "alpha"))
        assert down.dim() == len(module.shape)
        return float(alpha) / down.shape[0] * up.double().flatten(1) @ down.double().flatten(1)


Transfer = Callable[..., Result]


@pytest.fixture
def transfer(world: World, tmp_path: Path) -> Transfer:
    def run(tensors: Tensors, method: str = "reuse", *, dtype: torch.dtype | None = None, **settings: Any) -> Result:
        adapter = tiny.save(tmp_path / "style.safetensors", tensors, dtype)
        runtime = Runtime(device="cpu", cache_folder=world.folder / "cache", workers=1)
        if method == "rotation":
            settings = {"threshold": 0.0, "energy": ENERGY, **settings}
        request = lib_transfer.request(
            adapter, source=world.base, target=world.other, method=method, runtime=runtime, **settings
        )
        result = lib_transfer.transfer(request, Destination(folder=tmp_path), runtime=runtime)
        assert result.report is not None
        assert result.path is not None
        written = load_file(result.path)
        result.path.unlink()
        return Result(written, result.report)

    return run


def loha(shape: tuple[int, ...], rank: int = 2) -> tuple[Tensors, Callable[[Tensor], Tensor]]:
    out, into = shape[0], torch.Size(shape[1:]).numel()
    a1, b1, a2, b2 = (
        random(out, rank, seed=1),
        random(rank, into, seed=2),
        random(out, rank, seed=3),
        random(rank, into),
    )
    tensors = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2, "alpha": torch.tensor(0.5)}
    return tensors, lambda _: (a1.double() @ b1.double()) * (a2.double() @ b2.double()) * 0.5 / rank


def lokr(shape: tuple[int, ...]) -> tuple[Tensors, Callable[[Tensor], Tensor]]:
    """One whole: dense, of full rank."""
    w1, w2 = random(4, 4, seed=1), 0.1 * random(shape[0] // 4, shape[1] // 4, *shape[2:], seed=2)
    tensors = {"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(1e9)}
    return tensors, lambda _: torch.kron(w1.double(), w2.double().flatten(1))


def dora(shape: tuple[int, ...]) -> tuple[Tensors, Callable[[Tensor], Tensor]]:
    out, into = shape[0], torch.Size(shape[1:]).numel()
    up, down, magnitude = (
        0.05 * random(out, 2, seed=1),
        0.05 * random(2, into, seed=2),
        0.5 + random(out, 1, seed=3).abs(),
    )
    kernel = (1,) * (len(shape) - 2)
    tensors = {
        "lora_up.weight": up.reshape(out, 2, *kernel),
        "lora_down.weight": down.reshape(2, *shape[1:]),
        "dora_scale": magnitude.reshape(out, 1, *kernel),
        "alpha": torch.tensor(4.0),
    }

    def formula(weight: Tensor) -> Tensor:
        v = weight.flatten(1) + 2 * up.double() @ down.double()
        return v * (magnitude.double() / v.norm(dim=1, keepdim=True)) - weight.flatten(1)

    return tensors, formula


def oft(shape: tuple[int, ...]) -> tuple[Tensors, Callable[[Tensor], Tensor]]:
    blocks = 0.2 * random(4, shape[0] // 4, shape[0] // 4, seed=1)

    def formula(weight: Tensor) -> Tensor:
        q = blocks.double() - blocks.double().mT
        one = torch.eye(q.shape[-1], dtype=torch.float64)
        r = torch.block_diag(*((one + q) @ (one - q).inverse()))
        return r.T @ weight.flatten(1) - weight.flatten(1)

    return {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}, formula


def ia3(shape: tuple[int, ...]) -> tuple[Tensors, Callable[[Tensor], Tensor]]:
    factors = random(shape[0], seed=1)
    shaped = factors.reshape(1, -1, 1, 1) if len(shape) == 4 else factors
    tensors = {"weight": shaped, "on_input": torch.tensor(0)}
    return tensors, lambda weight: factors.double()[:, None] * weight.flatten(1)


def glora(shape: tuple[int, ...]) -> tuple[Tensors, Callable[[Tensor], Tensor]]:
    out, into, *kernel = shape
    a1, a2, b1, b2 = random(into, 2, seed=1), random(2, into, seed=2), random(out, 2, seed=3), random(2, into, *kernel)
    tensors = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(1.0)}

    def formula(weight: Tensor) -> Tensor:
        behind = torch.einsum("oi...,ij->oj...", weight, a1.double() @ a2.double())
        return (behind.flatten(1) + b1.double() @ b2.double().flatten(1)) / 2

    return tensors, formula


ALGORITHMS = {"loha": loha, "lokr": lokr, "dora": dora, "oft": oft, "ia3": ia3, "glora": glora}
ON_BASE = ("dora", "oft", "ia3", "glora")


def dense_rotation(source: Tensor, target: Tensor, k: int) -> Tensor:
    """The polar factor of ``P_t P_s + (I - P_t)(I - P_s)`` for the first ``k`` left singular vectors, in float64."""
    projectors = []
    for w in (source, target):
        u = torch.linalg.svd(w, full_matrices=False)[0][:, :k]
        projectors.append(u @ u.T)
    one = torch.eye(len(source), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(projectors[1] @ projectors[0] + (one - projectors[1]) @ (one - projectors[0]))
    return u @ vh


def rotated(world: World, module: Module, delta: Tensor) -> Tensor:
    source, target = (w[module.weight].double().flatten(1) for w in (world.weights, world.others))
    energy = torch.linalg.svdvals(source).square().cumsum(0)
    k = int((energy < ENERGY * energy[-1]).sum()) + 1
    return dense_rotation(source, target, k) @ delta @ dense_rotation(source.T, target.T, k).T


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def named(module: Module, tensors: Tensors) -> Tensors:
    return {f"{module.output_name}.{key}": tensor for key, tensor in tensors.items()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("form", ROLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_everything_is_written_with_the_full_rank(
    dtype: torch.dtype, form: str, algorithm: str, world: World, transfer: Transfer
) -> None:
    module = world.modules[form]
    tensors, formula = ALGORITHMS[algorithm](module.shape)
    limit = 1e-5 if dtype == torch.float32 else 1e-3
    for method in ("reuse", "rotation"):
        expected = formula(world.weight(form, method))
        expected = rotated(world, module, expected) if method == "rotation" else expected
        result = transfer(named(module, tensors), method, dtype=dtype, rank="full")
        assert relative(result.delta(module), expected) < limit
        told = result.of(module)
        assert told.energy_kept == pytest.approx(1, abs=1e-3)
        assert told.decision == ("copied" if method == "reuse" else "transferred")
        guessed = "computed with the target's weight, because the method reuse takes no source"
        assert (guessed in told.reason) == (method == "reuse" and algorithm in ON_BASE)
        if algorithm not in ON_BASE:  # whose weights are of no clear rank
            assert told.rank_before == torch.linalg.matrix_rank(expected, rtol=1e-6)


@pytest.mark.parametrize("method", ["reuse", "rotation"])
@pytest.mark.parametrize("form", ROLES)
def test_the_chosen_rank_is_the_smallest_that_keeps_the_energy(
    form: str, method: str, world: World, transfer: Transfer
) -> None:
    module = world.modules[form]
    tensors, formula = lokr(module.shape)
    result = transfer(named(module, tensors), method, dtype=torch.float32)
    told = result.of(module)
    energy = torch.linalg.svdvals(formula(world.weight(form, method))).square().cumsum(0)
    assert told.rank_after == int((energy < 0.99 * energy[-1]).sum()) + 1
    assert told.energy_kept == pytest.approx(float(energy[told.rank_after - 1] / energy[-1]), rel=1e-4)
    assert "99%" in told.reason
    assert result.tensors[f"{module.output_name}.lora_down.weight"].shape[0] == told.rank_after
    if method == "reuse":
        assert told.change == pytest.approx(float(1 - energy[told.rank_after - 1] / energy[-1]) ** 0.5, rel=1e-3)
    assert told.norm_before == pytest.approx(float(energy[-1]) ** 0.5, rel=1e-5)


def test_a_rank_that_is_asked_for_is_kept(world: World, transfer: Transfer) -> None:
    module = world.modules["linear"]
    tensors, formula = lokr(module.shape)
    result = transfer(named(module, tensors), dtype=torch.float32, rank=5)
    u, s, vh = torch.linalg.svd(formula(world.weight("linear", "reuse")))
    assert relative(result.delta(module), (u[:, :5] * s[:5]) @ vh[:5]) < 1e-5
    assert result.of(module).rank_after == 5


def test_the_chosen_rank_has_a_limit(world: World, transfer: Transfer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "LARGEST_RANK", 3)
    module = world.modules["linear"]
    tensors, formula = lokr(module.shape)
    told = transfer(named(module, tensors), dtype=torch.float32).of(module)
    energy = torch.linalg.svdvals(formula(world.weight("linear", "reuse"))).square()
    assert told.rank_after == 3
    assert told.energy_kept == pytest.approx(float(energy[:3].sum() / energy.sum()), rel=1e-4)
    assert "less than 99%" in told.reason


@pytest.mark.parametrize("form", ROLES)
def test_a_full_difference_goes_through_the_method(form: str, world: World, transfer: Transfer) -> None:
    module = world.modules[form]
    up, down = (
        random(module.shape[0], 3, seed=1).double(),
        random(3, torch.Size(module.shape[1:]).numel(), seed=2).double(),
    )
    difference = (up @ down).float().reshape(module.shape)
    given = named(module, {"diff": difference})
    copied = transfer(given, "reuse")
    assert set(copied.tensors) == {f"{module.output_name}.diff"}
    assert torch.equal(copied.tensors[f"{module.output_name}.diff"], difference)
    assert copied.of(module).decision == "carried over"
    moved = transfer(given, "rotation", rank="full")
    assert relative(moved.delta(module), rotated(world, module, up @ down)) < 1e-5
    assert moved.of(module).rank_after == 3  # it compresses, so it became a LoRA
    assert moved.of(module).decision == "transferred"
    assert f"{module.output_name}.diff" not in moved.tensors


def test_a_full_difference_with_a_bias_stays_one(world: World, transfer: Transfer) -> None:
    module = world.modules["wide"]
    difference, bias = random(*module.shape, seed=1), random(module.shape[0], seed=2)
    given = named(module, {"diff": difference, "diff_b": bias})
    for rank in ("same", "full"):
        moved = transfer(given, "rotation", rank=rank, strength=0.5)
        name = module.output_name
        assert set(moved.tensors) == {f"{name}.diff", f"{name}.diff_b"}
        expected = rotated(world, module, difference.double())
        assert relative(moved.delta(module), 0.5 * expected) < 1e-5
        assert torch.equal(moved.tensors[f"{name}.diff_b"], 0.5 * bias)
        told = moved.of(module)
        assert "as a full difference" in told.reason
        assert told.energy_kept == pytest.approx(1, rel=1e-5)
        assert told.rank_after is None
    cut = transfer(given, "rotation", rank=4)
    assert cut.of(module).rank_after == 4
    assert torch.equal(cut.tensors[f"{module.output_name}.diff_b"], bias)
    assert "the bias, which Forge and ComfyUI read and A1111 does not" in cut.of(module).reason


def test_a_full_difference_that_does_not_compress_stays_one(
    world: World, transfer: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "LARGEST_RANK", 3)
    module = world.modules["linear"]
    difference = random(*module.shape, seed=1)
    moved = transfer(named(module, {"diff": difference}), "rotation")
    assert set(moved.tensors) == {f"{module.output_name}.diff"}
    assert relative(moved.delta(module), rotated(world, module, difference.double())) < 1e-5


def test_an_update_of_another_shape_is_left_out_before_it_is_formed(world: World, transfer: Transfer) -> None:
    good, bad = world.modules["linear"], world.modules["wide"]
    tensors = named(good, loha(good.shape)[0]) | named(bad, loha((12, 12))[0])
    result = transfer(tensors, "rotation")
    assert result.of(bad).decision == "unsupported"
    assert "12x12" in result.of(bad).reason
    assert result.of(good).written


def test_a_module_that_does_nothing_stays_so(world: World, transfer: Transfer) -> None:
    module = world.modules["linear"]
    tensors = loha(module.shape)[0] | {"alpha": torch.tensor(0.0)}
    result = transfer(named(module, tensors), "rotation")
    assert not result.delta(module).any()
    assert "alpha is 0" in result.of(module).reason


def test_oft_by_the_names_of_kohya(world: World, transfer: Transfer) -> None:
    """It starts with ``oft_unet_``; what is written is a LoRA, by the name that both hosts load."""
    module = world.modules["linear"]
    tensors, formula = oft(module.shape)
    name = str(module.output_name).replace("lora_unet_", "oft_unet_")
    result = transfer({f"{name}.{key}": tensor for key, tensor in tensors.items()}, dtype=torch.float32, rank="full")
    assert {key.split(".")[0] for key in result.tensors} == {module.output_name}
    assert relative(result.delta(module), formula(world.weight("linear", "reuse"))) < 1e-5


def test_a_damaged_base_weight_is_named(world: World, tmp_path: Path) -> None:
    module = world.modules["linear"]
    spoiled = dict(world.others)
    spoiled[module.weight] = torch.full_like(spoiled[module.weight], float("nan"))
    target = tiny.save(tmp_path / "spoiled.safetensors", spoiled)
    adapter = tiny.save(tmp_path / "style.safetensors", named(module, oft(module.shape)[0]))
    runtime = Runtime(device="cpu", cache_folder=tmp_path / "cache", workers=1)
    request = lib_transfer.request(adapter, target=target, method="reuse", runtime=runtime)
    with pytest.raises(NumericError, match="spoiled"):
        lib_transfer.transfer(request, Destination(folder=tmp_path), runtime=runtime)


def test_an_update_of_a_slice_is_computed_with_the_slice(tmp_path: Path) -> None:
    """SDXL's second text encoder keeps q, k and v in one weight."""
    weights = tiny.weights("sdxl", width=8)
    target = tiny.save(tmp_path / "target.safetensors", weights)
    found = modules(tiny.architecture("sdxl"), {key: tuple(w.shape) for key, w in weights.items()})
    module = next(m for m in found if m.position.part == "te2" and m.position.role == "self_attn.k_proj")
    assert module.rows is not None
    tensors, formula = dora(module.shape)
    adapter = tiny.save(tmp_path / "style.safetensors", named(module, tensors))
    runtime = Runtime(device="cpu", cache_folder=tmp_path / "cache", workers=1)
    request = lib_transfer.request(adapter, target=target, method="reuse", runtime=runtime, rank="full", dtype="fp32")
    result = lib_transfer.transfer(request, Destination(folder=tmp_path), runtime=runtime)
    assert result.path is not None
    assert result.report is not None
    expected = formula(weights[module.weight][slice(*module.rows[0])].double())
    assert relative(Result(load_file(result.path), result.report).delta(module), expected) < 1e-5
