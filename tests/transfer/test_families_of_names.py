"""LoRAs for each transformer since Anima in every family of names, transferred whole: reused, told by their names, rotated."""

from __future__ import annotations

from pathlib import Path

import pytest

import lib_transfer
from lib_transfer.architecture import identity, reference
from tests import tiny
from tests.transfer import hosts
from tests.transfer.families import BASES, FAMILIES, all_families, named
from tests.transfer.test_formulas import ENERGY, rotated
from tests.transfer.transformers import Bases, adapter_of, key_of, reused, written_as


@pytest.mark.parametrize("base", BASES)
def test_reuse_on_the_same_base_writes_every_family_in_names_that_load(
    base: str, bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    [path, _], [weights, _] = bases(base)
    made, meant = adapter_of(all_families(base), weights)
    written = reused(tiny.save(tmp_path / "style.safetensors", made), path, runtime)
    deltas = written.deltas()
    assert deltas.keys() == written.names.keys() == {written_as(path) for path in meant}
    for path_of, delta in meant.items():
        assert (deltas[written_as(path_of)] - delta).norm() <= 1e-5 * delta.norm(), path_of


@pytest.mark.parametrize("base", [base for base in BASES if base != "cosmos-predict2-2b"])
def test_an_adapter_of_one_family_is_known_for_what_it_is(base: str) -> None:
    """With sizes of the real model and without any; the metadata say nothing. The names of Cosmos-Predict2 are Anima's."""
    full = reference(tiny.architecture(base))
    for family in FAMILIES:
        shapes: dict[str, tuple[int, int]] = {}
        for block in range(4):
            for name, (path, (first, last)) in named(base, family, block):
                out, into = full[key_of(path)]
                shapes[name] = (round((last - first) * out), into)
        found = identity(list(shapes), shapes, [])
        assert [it.id for it in found.architectures] == [base] and not found.doubt and not found.unsupported, family
        without = identity(list(shapes), {}, [])
        families = {it.family for it in without.architectures}
        assert tiny.architecture(base).family in families and not without.unsupported, family


@pytest.mark.parametrize("base", BASES)
def test_rotation_carries_the_parts_of_a_weight_one_by_one(
    base: str, bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    [source, target], [of_source, of_target] = bases(base)
    changes = dict(named(base, "diffusers", 1))
    made, meant = adapter_of(changes, of_source)
    file = tiny.save(tmp_path / "style.safetensors", made)
    request = lib_transfer.request(
        file, source=source, target=target, runtime=runtime, method="rotation", rank="full", dtype="fp32",
        energy=ENERGY, threshold=0.0,
    )  # fmt: skip
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.path is not None
    deltas = hosts.read(result.path).deltas()
    assert deltas.keys() == {written_as(path) for path in meant}
    for path, edges in changes.values():
        delta, whole = deltas[written_as(path)], meant[path]
        parts = [edges]
        if path.endswith("linear1"):  # q, k, v, and the feed-forward
            parts = [(0, 1 / 9), (1 / 9, 2 / 9), (2 / 9, 3 / 9), (3 / 9, 1)]
        for part in parts:
            first, last = (round(edge * whole.shape[0]) for edge in part)
            given = whole[first:last]
            expected = rotated(given, of_source[key_of(path)][first:last], of_target[key_of(path)][first:last])
            assert (delta[first:last] - expected).norm() <= 1e-4 * given.norm(), path
            assert (delta[first:last] - given).norm() > 1e-2 * given.norm(), "it moved"
