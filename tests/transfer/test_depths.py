"""LoRAs of Anima between its relatives of 28, 40 and 52 blocks, which are made here as the published ones were.

The tables are written out as they were published; what Forge Neo and the public converters do is stated anew from reading them
(reference/bases-2026.md, 2.6 and 2.7). None of it is taken from the code under test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import lib_transfer
from lib_transfer.conversion.blocks import by_weights
from lib_transfer.errors import MismatchError
from lib_transfer.library.base import open_base
from lib_transfer.storage.cache import Cache
from tests import tiny
from tests.transfer import hosts
from tests.transfer.test_formulas import rotated

CORE = "model.diffusion_model."
ADAPTER = "lora_unet_llm_adapter_blocks_2_self_attn_q_proj"
WIDTH = 16

TO_40 = {2: 1, 5: 3, 8: 5, 11: 7, 14: 9, 17: 11, 21: 14, 24: 16, 27: 18, 30: 20, 33: 22, 36: 24}
"""Inserted block of the relative with 40 blocks -> the block of the 28 that it was copied from."""
TO_52 = {3: 2, 7: 5, 11: 8, 15: 11, 19: 14, 23: 17, 27: 20, 31: 23, 35: 26, 39: 29, 43: 32, 47: 35}
"""Likewise from the one with 40 blocks to that with 52."""
KEPT = {
    (28, 40): [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 20, 22, 23, 25, 26, 28, 29, 31, 32, 34, 35, 37, 38, 39],
    (28, 52): [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 26, 29, 30, 33, 34, 37, 38, 41, 42, 45, 46, 49, 50, 51],
    (40, 52): [0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18, 20, 21, 22, 24, 25, 26, 28, 29, 30, 32, 33, 34, 36, 37, 38,
               40, 41, 42, 44, 45, 46, 48, 49, 50, 51],
}  # fmt: skip
"""Where the blocks of the shallower one are in the deeper one."""
ZEROED = ("adaln_modulation_self_attn.2", "adaln_modulation_cross_attn.2", "adaln_modulation_mlp.2",
          "self_attn.output_proj", "cross_attn.output_proj", "mlp.layer2")  # fmt: skip
MODULES = ("self_attn.q_proj", "self_attn.output_proj", "cross_attn.k_proj", "mlp.layer2", "adaln_modulation_mlp.1")

Deltas = dict[str, Tensor]


def goes_to(source: int, target: int) -> dict[int, int]:
    """Block of the source -> block of the target, where it has one."""
    if source > target:
        return {there: block for block, there in goes_to(target, source).items()}
    return dict(enumerate(KEPT[source, target]))


def copies_of(source: int, target: int) -> dict[int, list[int]]:
    """Block of the source -> the target's blocks that were inserted as copies of it."""
    found: dict[int, list[int]] = {block: [] for block in range(source)}
    if source > target:
        return found
    if source == 28:
        for block, of in TO_40.items():
            found[of].append(block)
        if target == 52:
            origin = {there: block for block, there in enumerate(KEPT[28, 40])} | TO_40
            found = {block: [KEPT[40, 52][it] for it in copies] for block, copies in found.items()}
            for block, of in TO_52.items():
                found[origin[of]].append(block)
    else:
        for block, of in TO_52.items():
            found[of].append(block)
    return {block: sorted(copies) for block, copies in found.items()}


def expanded(weights: tiny.Weights, inserted: Mapping[int, int], blocks: int) -> tiny.Weights:
    """With copies of blocks, whose outputs are zero, put between the blocks."""
    kept = iter(range(blocks))
    made = {key: w for key, w in weights.items() if not key.startswith(f"{CORE}blocks.")}
    for block in range(blocks + len(inserted)):
        of = inserted[block] if block in inserted else next(kept)
        for key, w in weights.items():
            if key.startswith(before := f"{CORE}blocks.{of}."):
                leaf = key.removeprefix(before)
                zeroed = block in inserted and leaf.removesuffix(".weight") in ZEROED
                made[f"{CORE}blocks.{block}.{leaf}"] = torch.zeros_like(w) if zeroed else w.clone()
    return made


def trained(weights: tiny.Weights, amount: float, seed: int, blocks: Iterable[int] = range(52)) -> tiny.Weights:
    """After a training that moved the weights of these blocks by ``amount`` of what such weights have for a size."""
    generator = torch.Generator().manual_seed(seed)
    within = tuple(f"{CORE}blocks.{block}." for block in blocks)

    def leaf(key: str) -> str:
        return re.sub(r"blocks\.\d+", "blocks", key)

    sizes = {leaf(key): float(w.square().mean().sqrt()) for key, w in weights.items() if w.any()}
    return {
        key: w + amount * sizes[leaf(key)] * torch.randn(w.shape, generator=generator) if key.startswith(within) else w
        for key, w in weights.items()
    }


@cache
def base() -> tiny.Weights:
    return {key: w for key, w in tiny.weights("anima", width=WIDTH).items() if key.startswith(CORE)}


@cache
def family(amount: float | None) -> dict[int, tiny.Weights]:
    """The relatives, all of whose blocks were trained; None: the inserted ones alone, as is said of the published ones."""
    of_40 = expanded(base(), TO_40, 28)
    of_40 = trained(of_40, 0.3, 1, TO_40) if amount is None else trained(of_40, amount, 1)
    of_52 = expanded(of_40, TO_52, 40)
    of_52 = trained(of_52, 0.3, 2, TO_52) if amount is None else trained(of_52, amount, 2)
    return {28: base(), 40: of_40, 52: of_52}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float | None], dict[int, Path]]:
    folder = tmp_path_factory.mktemp("anima")

    def saved(amount: float | None) -> dict[int, Path]:
        found = {depth: folder / f"{depth} {amount}.safetensors" for depth in (28, 40, 52)}
        return {d: path if path.exists() else tiny.save(path, family(amount)[d]) for d, path in found.items()}

    return saved


def lora(blocks: Iterable[int], modules: Iterable[str] = MODULES) -> tiny.Weights:
    """A LoRA for these blocks, and for the adapter, whose blocks are others."""
    made = tiny.factors(ADAPTER, base()[f"{CORE}llm_adapter.blocks.2.self_attn.q_proj.weight"].shape, seed=99)
    for block in blocks:
        for number, module in enumerate(modules):
            shape = base()[f"{CORE}blocks.0.{module}.weight"].shape
            made |= tiny.factors(
                f"lora_unet_blocks_{block}_{module.replace('.', '_')}", shape, seed=10 * block + number
            )
    return made


def moved(deltas: Mapping[str, Tensor], source: int, target: int, inserted: str = "empty") -> Deltas:
    """What a LoRA changes in the other relative: by the tables."""
    there, copies = goes_to(source, target), copies_of(source, target)
    found: Deltas = {}
    for name, change in deltas.items():
        match = re.fullmatch(r"lora_unet_blocks_(\d+)_(.+)", name)
        if match is None:
            found[name] = change
            continue
        block, rest = int(match[1]), match[2]
        if block in there:
            more = copies[block] if inserted != "empty" else []
            part = change / (1 + len(more)) if inserted == "share" else change
            found |= {f"lora_unet_blocks_{it}_{rest}": part for it in (there[block], *more)}
    return found


def changes(tensors: tiny.Weights) -> Deltas:
    """Module -> change of the weight, of those that change anything."""
    names = {key.partition(".")[0] for key in tensors}
    each = {n: {k.partition(".")[2]: t for k, t in tensors.items() if k.startswith(f"{n}.")} for n in names}
    found = {name: hosts.delta(own) for name, own in each.items()}
    return {name: change for name, change in found.items() if change.any()}


def need_equal(got: Deltas, expected: Deltas) -> None:
    assert got.keys() == expected.keys()
    for name, change in expected.items():
        torch.testing.assert_close(got[name], change, atol=1e-6, rtol=1e-5, msg=name)


def numbers(tensors: Iterable[str]) -> set[int]:
    return {int(match[1]) for key in tensors if (match := re.match(r"lora_unet_blocks_(\d+)_", key))}


def neo(tensors: Mapping[str, Tensor], model: int, *, counts: bool) -> dict[str, Tensor]:
    """What Forge Neo makes of a file for a model: the last version, or the one of some days that ``counts`` the blocks.

    A file that seems to be for a smaller model gets each block from the one that it stems from, where that has the module;
    what was there before stays otherwise.
    """
    there = numbers(tensors)
    reached = next(n for n in range(99) if n not in there) if counts else max(there) + 1
    known = min((depth for depth in (28, 40, 52) if depth >= reached), default=None)
    assert known is not None and known <= model
    if known == model:
        return dict(tensors)
    origin = {it: block for block, there in goes_to(known, model).items() for it in [there]}
    origin |= {it: block for block, copies in copies_of(known, model).items() for it in copies}
    found = dict(tensors)
    for target, source in origin.items():
        before = f"lora_unet_blocks_{source}_"
        found |= {
            f"lora_unet_blocks_{target}_{k.removeprefix(before)}": t for k, t in tensors.items() if k.startswith(before)
        }
    return found


Run = Callable[..., lib_transfer.TransferResult]


@pytest.fixture
def run(runtime: lib_transfer.Runtime, tmp_path: Path) -> Run:
    def transferred(tensors: tiny.Weights | Path, metadata: dict[str, str] | None = None, **options: object) -> object:
        file = (
            tensors
            if isinstance(tensors, Path)
            else tiny.save(tmp_path / "style.safetensors", tensors, metadata=metadata)
        )
        request = lib_transfer.request(file, runtime=runtime, **{"rank": "full", **options})  # type: ignore[arg-type]
        return lib_transfer.transfer(request, runtime=runtime)

    return transferred  # type: ignore[return-value]


@pytest.mark.parametrize("amount", [None, 0.0, 0.01, 0.1, 1.0, 2.0])
def test_the_weights_tell_what_the_tables_say(
    amount: float | None, paths: Callable[[float | None], dict[int, Path]], tmp_path: Path
) -> None:
    """Up to a training that moves every weight by twice its size; the published ones did not move the inherited blocks."""
    for source, target in permutations((28, 40, 52), 2):
        with (
            open_base(paths(amount)[source], f"{amount} {source}") as one,
            open_base(paths(amount)[target], f"{amount} {target}") as other,
        ):
            found = by_weights(one, other, Cache(tmp_path / "cache"))
        assert found is not None
        assert found.to == tuple(map(goes_to(source, target).get, range(source))), (source, target)
        assert {n: list(it) for n, it in enumerate(found.copies)} == copies_of(source, target), (source, target)


FULL, SPARSE = range(28), (3, 10, 11, 12)


@pytest.mark.parametrize("inserted", ["empty", "copy", "share"])
@pytest.mark.parametrize(("source", "target"), [(28, 40), (28, 52), (40, 52), (40, 28), (52, 40), (52, 28)])
def test_a_lora_moves_with_its_blocks(
    source: int, target: int, inserted: str, run: Run, paths: Callable[[float | None], dict[int, Path]]
) -> None:
    """The inherited weights are equal, so that the method changes nothing: a full LoRA, by the weights and by the table."""
    made, ends = lora(range(source)), paths(None)
    expected = moved(changes(made), source, target, inserted)
    by_the_weights = run(made, source=ends[source], target=ends[target], inserted=inserted, threshold=0.0)
    assert by_the_weights.report is not None and by_the_weights.path is not None
    need_equal(changes(load_file(by_the_weights.path)), expected)
    verdict = by_the_weights.report.verdict
    assert f"The source has {source} blocks and the target {target}." in verdict
    assert "the published table says the same" in verdict
    assert ("Inserted blocks of the target (" in verdict) == (source < target)
    lost = [m for m in by_the_weights.report.modules if not m.written]
    assert len(lost) == len(MODULES) * max(0, source - target)
    by_table = run(made, target=ends[target], method="reuse", inserted=inserted)
    assert by_table.report is not None and by_table.path is not None
    need_equal(changes(load_file(by_table.path)), expected)
    assert f"as in LoRAs for {source} blocks" in by_table.report.verdict
    assert by_table.report.accounts.carried == by_the_weights.report.accounts.carried


def test_where_the_weights_differ_each_goes_through_the_method_of_its_pair(
    run: Run, paths: Callable[[float | None], dict[int, Path]]
) -> None:
    made, ends = lora(SPARSE, ("self_attn.q_proj", "mlp.layer2")), paths(0.1)
    result = run(made, source=ends[28], target=ends[40], inserted="share", threshold=0.0, energy=0.9)
    assert result.path is not None
    expected = {}
    for name, change in changes(made).items():
        if match := re.fullmatch(r"lora_unet_blocks_(\d+)_(self_attn|mlp)_(.+)", name):
            leaf = f"{match[2]}.{match[3]}.weight"
            before, after = f"{CORE}blocks.{match[1]}.{leaf}", f"{CORE}blocks.{KEPT[28, 40][int(match[1])]}.{leaf}"
            expected[name] = rotated(change, base()[before].double(), family(0.1)[40][after].double())
        else:
            expected[name] = change
    got, wanted = changes(load_file(result.path)), moved(expected, 28, 40, "share")
    assert got.keys() == wanted.keys()
    for name, change in wanted.items():
        torch.testing.assert_close(got[name], change, atol=2e-4 * float(change.abs().max()), rtol=2e-3, msg=name)


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("blocks", [FULL, SPARSE], ids=["full", "sparse"])
@pytest.mark.parametrize("target", [40, 52])
def test_no_program_moves_a_file_of_ours_again(
    target: int, blocks: Iterable[int], counts: bool, run: Run, paths: Callable[[float | None], dict[int, Path]]
) -> None:
    made, ends = lora(blocks), paths(None)
    expected = moved(changes(made), 28, target)
    # The converter that people have: the names alone, and nothing else in the file.
    public = {
        re.sub(r"(?<=^lora_unet_blocks_)\d+", lambda number: str(goes_to(28, target)[int(number[0])]), key): tensor
        for key, tensor in made.items()
    }
    need_equal(changes(public), expected)
    if counts or blocks is SPARSE:
        assert changes(neo(public, target, counts=counts)).keys() != expected.keys(), (
            "which the programs take for another"
        )
    result = run(made, source=ends[28], target=ends[target])
    assert result.path is not None
    file = hosts.read(result.path)
    need_equal(changes(file.tensors), expected)
    again = neo(file.tensors, target, counts=counts)
    assert again.keys() == file.tensors.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in file.tensors.items())
    assert numbers(file.tensors) == set(range(target))
    assert all(key.startswith(("lora_unet_blocks_", ADAPTER)) for key in file.tensors), "one family of names"
    assert file.metadata["modelspec.anima_source_blocks"] == file.metadata["transfer_lora.blocks"] == str(target)
    idle = {name for name, own in file.names.items() if not hosts.delta(own).any()}
    assert all(file.names[name]["lora_down.weight"].shape[0] == 1 for name in idle)
    assert len(idle) == target - len(set(blocks)), "one for each block that has nothing"
    # And it is not moved by us: neither on its target nor, by its metadata, from another source.
    stays = run(result.path, target=ends[target], method="reuse")
    assert stays.path is not None
    need_equal(changes(load_file(stays.path)), expected)
    with pytest.raises(MismatchError, match=f"is for {target} blocks"):
        run(result.path, source=ends[28], target=ends[target])


def test_a_file_that_another_tool_moved_is_told(run: Run, paths: Callable[[float | None], dict[int, Path]]) -> None:
    ends = paths(None)
    by_hand = lora(KEPT[28, 40])
    with pytest.raises(
        MismatchError, match=r"changes blocks up to 39, as one that a tool moved from 28 blocks"
    ) as caught:
        run(by_hand, source=ends[28], target=ends[40])
    assert "use it as it is" in caught.value.hint
    stays = run(by_hand, target=ends[40], method="reuse")
    assert stays.report is not None and stays.path is not None
    need_equal(changes(load_file(stays.path)), changes(by_hand))
    assert "The LoRA looks as if a tool moved it from 28 blocks to 40" in stays.report.verdict
    on = run(by_hand, source=ends[40], target=ends[52])
    assert on.report is not None and on.path is not None
    need_equal(changes(load_file(on.path)), moved(changes(by_hand), 40, 52))
    assert "from 28 blocks to 40" in on.report.verdict


def test_what_a_lora_is_for_may_be_doubtful(run: Run, paths: Callable[[float | None], dict[int, Path]]) -> None:
    ends = paths(None)
    sparse = lora(SPARSE)
    # Nothing tells: it is taken as it is, by its names.
    as_it_is = run(sparse, target=ends[40], method="reuse")
    assert as_it_is.path is not None and as_it_is.report is not None
    need_equal(changes(load_file(as_it_is.path)), changes(sparse))
    assert "blocks were moved" not in as_it_is.report.verdict
    assert "Nothing tells for how many blocks the LoRA is" in as_it_is.report.verdict
    # Its metadata tell.
    told = run(
        sparse, {"modelspec.anima_source_blocks": "28"}, target=ends[40], method="reuse", dtype="fp32", strength=1.0
    )
    assert told.path is not None and told.report is not None
    need_equal(changes(load_file(told.path)), moved(changes(sparse), 28, 40))
    assert "metadata say that it is for 28 blocks" in told.report.verdict
    with pytest.raises(MismatchError, match=r"is for 28 blocks, and the source .* has 40"):
        run(sparse, {"modelspec.anima_source_blocks": "28"}, source=ends[40], target=ends[52])
    # A full one for 28 blocks, with a source of 40: it may be.
    doubtful = run(lora(FULL), source=ends[40], target=ends[40], threshold=0.0)
    assert doubtful.report is not None
    assert "has 40: make sure that it was trained on that one" in doubtful.report.verdict


def test_where_the_table_says_otherwise_the_report_does(run: Run, tmp_path: Path) -> None:
    """An expansion that puts its copies elsewhere."""
    inserted = {block: min(27, block - number - 1) for number, block in enumerate(range(3, 39, 3))}
    ends = [tiny.save(tmp_path / "28.safetensors", base())]
    ends.append(tiny.save(tmp_path / "40.safetensors", trained(expanded(base(), inserted, 28), 0.2, 5)))
    kept = [block for block in range(40) if block not in inserted]
    made = lora(FULL, ["self_attn.q_proj"])
    result = run(made, source=ends[0], target=ends[1], threshold=0.0)
    assert result.report is not None
    name = "lora_unet_blocks_{}_self_attn_q_proj".format
    pairs = {m.name: m.target or m.name for m in result.report.modules if m.name != ADAPTER}
    assert pairs == {name(number): name(block) for number, block in enumerate(kept)}
    others = sum(ours != theirs for ours, theirs in zip(kept, KEPT[28, 40], strict=True))
    assert (
        others > 0
        and f"the published table says otherwise of {others} of them (block 2 goes to 2, in the table to 3; "
        in (result.report.verdict)
    )


def test_the_setting_is_part_of_the_request_only_where_it_is_set(
    run: Run, paths: Callable[[float | None], dict[int, Path]]
) -> None:
    """Outputs that were written before the setting was there are still those of their requests."""
    made, ends = lora(SPARSE, ["self_attn.q_proj"]), paths(None)
    for inserted, written in (("empty", {}), ("copy", {"inserted": "copy"})):
        result = run(made, source=ends[28], target=ends[40], inserted=inserted)
        assert result.path is not None
        settings = json.loads(hosts.read(result.path).metadata["transfer_lora.request"])["settings"]
        assert {key: value for key, value in settings.items() if key == "inserted"} == written
