"""The transferred file, applied to the target, gives what the papers' formulas say.

Every module of an SD1 and an SDXL pair: the output is read by the hand-written reader, the formulas are written out with
dense matrices in float64, on bases from float64 SVDs of the weights in the checkpoints.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lib_transfer.architecture import Rows, modules, reference
from tests import tiny
from tests.transfer import hosts

ENERGY = 0.9
Matrix = Tensor


def bases(weight: Matrix, k: int) -> tuple[Matrix, Matrix]:
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    return left[:, :k], right[:k].T


def subspace_rank(weight: Matrix, energy: float) -> int:
    shares = torch.linalg.svdvals(weight).square().cumsum(0)
    return int((shares < energy * shares[-1]).sum()) + 1


def similarity(a: Matrix, b: Matrix) -> float:
    return float((a.T @ b).square().sum() / a.shape[1])


def direct_rotation(source: Matrix, target: Matrix) -> Matrix:
    """The orthogonal polar factor ``A (A^T A)^(-1/2)`` of ``A = P_t P_s + (I - P_t)(I - P_s)``."""
    one = torch.eye(source.shape[0], dtype=torch.float64)
    p_s, p_t = source @ source.T, target @ target.T
    a = p_t @ p_s + (one - p_t) @ (one - p_s)
    values, vectors = torch.linalg.eigh(a.T @ a)
    return a @ (vectors * values.rsqrt()) @ vectors.T


Bases = tuple[Matrix, Matrix]


def formula(method: str, update: Matrix, source: Bases, target: Bases) -> Matrix:
    (u_s, v_s), (u_t, v_t) = source, target
    if method == "rotation":
        return direct_rotation(u_s, u_t) @ update @ direct_rotation(v_s, v_t).T
    p_s, p_t, q_s, q_t = (b @ b.T for b in (u_s, u_t, v_s, v_t))
    if method == "lora-x":
        return p_t @ update @ q_t
    assert method == "prolora"
    i_out, i_in = torch.eye(len(p_s), dtype=torch.float64), torch.eye(len(q_s), dtype=torch.float64)
    outside = (i_out - p_t) @ (i_out - p_s) @ update @ (i_in - q_s) @ (i_in - q_t)
    return p_t @ p_s @ update @ q_s @ q_t + outside


def rotated(update: Matrix, source: Matrix, target: Matrix) -> Matrix:
    k = subspace_rank(source, ENERGY)
    return formula("rotation", update, bases(source, k), bases(target, k))


def rounded_to_rank(matrix: Matrix, rank: int) -> Matrix:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def places(name: str, every: int = 1) -> dict[str, tuple[str, Rows | None, tuple[int, ...]]]:
    """Adapter name -> weight key, rows of it, shape: of every linear layer and convolution that both hosts load."""
    architecture = tiny.architecture(name)
    found = [m for m in modules(architecture, reference(architecture, width=8)) if m.output_name is not None]
    kept = [m for m in found if m.kind in ("linear", "convolution")][::every]
    return {str(m.output_name): (m.weight, m.rows, m.shape) for m in kept}


def adapter(where: dict[str, Any], rank: int = 3) -> tiny.Weights:
    made: tiny.Weights = {}
    for number, (module, (_, _, shape)) in enumerate(where.items()):
        made |= tiny.factors(module, shape, rank, seed=number)
    return made


def matrix(files: tiny.Files, name: str, key: str, rows: Rows | None) -> Matrix:
    whole = files.weight(name, key)
    if key.endswith("text_projection"):
        whole = whole.T  # The checkpoint multiplies with it from the right.
    return whole if rows is None else torch.cat([whole[slice(*part)] for part in rows])


@pytest.mark.parametrize(
    ("name", "method", "rank", "every"),
    [
        ("sd1", "rotation", "full", 1),
        ("sd1", "prolora", "full", 1),
        ("sd1", "prolora", "same", 1),
        ("sd1", "lora-x", "same", 1),
        ("sdxl", "rotation", "same", 1),
        ("sdxl", "prolora", "full", 3),
        ("sdxl", "lora-x", "full", 3),
    ],
)
def test_every_module(
    name: str, method: str, rank: str, every: int, files: tiny.Files, transfer: Any, tmp_path: Any
) -> None:
    where = places(name, every)
    made = adapter(where)
    path = tiny.save(tmp_path / "style.safetensors", made)
    result = transfer(
        path, f"{name}-source", f"{name}-target", method=method, rank=rank, energy=ENERGY, threshold=0.0, dtype="fp32"
    )
    out = hosts.read(result.path)
    got = out.deltas()
    reports = {m.name: m for m in result.report.modules}
    assert set(got) >= set(where)
    given = hosts.LoraFile(path, made, {}, b"").deltas()
    for module, (key, rows, _) in where.items():
        source, target = (matrix(files, f"{name}-{end}", key, rows) for end in ("source", "target"))
        k = subspace_rank(source, ENERGY)
        (u_s, v_s), (u_t, v_t) = bases(source, k), bases(target, k)
        expected = formula(method, given[module], (u_s, v_s), (u_t, v_t))
        if rank == "same":
            expected = rounded_to_rank(expected, 3)
        report = reports[module]
        assert report.similarity is not None
        assert report.similarity.rank == k, module
        assert report.similarity.left == pytest.approx(similarity(u_s, u_t), abs=1e-4), module
        assert report.similarity.right == pytest.approx(similarity(v_s, v_t), abs=1e-4), module
        error = (got[module] - expected).norm() / given[module].norm()
        assert error <= 1e-4, (module, float(error))
        assert report.norm_before == pytest.approx(float(given[module].norm()), rel=1e-4)
        assert report.norm_after == pytest.approx(float(expected.norm()), rel=1e-3, abs=1e-5)
        kept = (float(expected.norm()) / float(given[module].norm())) ** 2
        assert report.energy_kept == pytest.approx(kept, rel=2e-3, abs=1e-5)
    extra = [name for name in got if name not in where]
    assert all(got[name].norm() == 0 for name in extra)  # zeros that complete an attention


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_in_fp16_it_is_off_by_rounding_only(name: str, files: tiny.Files, transfer: Any, tmp_path: Any) -> None:
    where = places(name, 7)
    path = tiny.save(tmp_path / "style.safetensors", adapter(where), torch.float16)
    result = transfer(path, f"{name}-source", f"{name}-target", energy=ENERGY, threshold=0.0)
    out = hosts.read(result.path)
    assert {t.dtype for t in out.tensors.values()} == {torch.float16}
    got, given = out.deltas(), hosts.read(path).deltas()
    for module, (key, rows, _) in where.items():
        source, target = (matrix(files, f"{name}-{end}", key, rows) for end in ("source", "target"))
        expected = rotated(given[module], source, target)
        assert (got[module] - expected).norm() <= 1e-3 * expected.norm(), module


def test_checkpoints_in_bf16_and_fp32(files: tiny.Files, transfer: Any, tmp_path: Any) -> None:
    """The weights of the two sides need not have one number format."""
    where = dict(list(places("sd1").items())[::29])
    path = tiny.save(tmp_path / "style.safetensors", adapter(where))
    source = tiny.save(tmp_path / "source.safetensors", files.tensors["sd1-source"], torch.float32)
    target = tiny.save(tmp_path / "target.safetensors", files.tensors["sd1-target"], torch.bfloat16)
    result = transfer(path, source, target, energy=ENERGY, threshold=0.0)
    got, given = hosts.read(result.path).deltas(), hosts.read(path).deltas()
    for module, (key, rows, _) in where.items():
        left = matrix(files, "sd1-source", key, rows)
        right = files.tensors["sd1-target"][key].bfloat16().double().flatten(1)
        expected = rotated(given[module], left, right)
        assert (got[module] - expected).norm() <= 1e-4 * expected.norm(), module


def test_there_and_back_at_a_fixed_rank(files: tiny.Files, transfer: Any, tmp_path: Any) -> None:
    where = dict(list(places("sdxl").items())[::11])
    path = tiny.save(tmp_path / "style.safetensors", adapter(where))
    settings = {"subspace_rank": 3, "threshold": 0.0}
    there = transfer(path, "sdxl-source", "sdxl-target", **settings)
    back = transfer(there.path, "sdxl-target", "sdxl-source", **settings)
    given, moved, got = (hosts.read(p).deltas() for p in (path, there.path, back.path))
    for module in where:
        assert (got[module] - given[module]).norm() <= 1e-4 * given[module].norm()
    assert any((moved[module] - given[module]).norm() > 0.05 * given[module].norm() for module in where)
