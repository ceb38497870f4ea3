"""Reconstruction on twins: the same network with its residual stream permuted, or turned."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lib_transfer.evaluation.improvements import reconstruction
from lib_transfer.evaluation.improvements.improvement import Scale, Start, Target
from lib_transfer.evaluation.improvements.reconstruction import Reconstruction, reconstruct
from lib_transfer.evaluation.movement import match, predictions
from lib_transfer.evaluation.observation import movement_of
from lib_transfer.evaluation.streams import BlockFacts, Streams, grid, partner, partners, same_places
from lib_transfer.linalg.factors import Factors
from lib_transfer.progress import Silent
from lib_transfer.update import Update
from tests.evaluation import nets

WIDTH = 12


def twin(network: nets.Network, turn: Tensor) -> nets.Network:
    """The network that computes the same, its residual stream ``x`` being ``turn @ x``; ``turn`` is orthogonal."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.first.weight.copy_(turn @ network.first.weight)
        other.first.bias.copy_(turn @ network.first.bias)
        other.last.weight.copy_(network.last.weight @ turn.T)
        for block in other.blocks:
            for name, module in block.named_modules():
                if not isinstance(module, torch.nn.Linear):
                    continue
                reads = name in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_q", "ff.net.0")
                if reads:
                    module.weight.copy_(module.weight @ turn.T)
                elif "to_out" in name or name == "ff.net.2":
                    module.weight.copy_(turn @ module.weight)
                    module.bias.copy_(turn @ module.bias)
    return other


def original(network: nets.Network, size: float = 0.15) -> dict[str, Update]:
    """An adapter on what writes into the stream."""
    generator = torch.Generator().manual_seed(11)
    return {
        name: Update(
            Factors(
                torch.randn(module.out_features, 2, generator=generator) * size,
                torch.randn(2, module.in_features, generator=generator) * size,
            )
        )
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(reconstruction.PROJECTIONS)
    }


def turns() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(WIDTH, generator=generator)
    orthogonal = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
    return {"same": torch.eye(WIDTH), "permuted": torch.eye(WIDTH)[order], "turned": orthogonal}


@pytest.mark.parametrize("how", ["same", "permuted", "turned"])
def test_a_twin_moves_as_the_source_does(how: str, tmp_path: Path) -> None:
    turn = turns()[how]
    network = nets.Network(WIDTH)
    source, target = nets.model(network), nets.model(twin(network, turn))
    inputs = nets.inputs(12)
    torch.testing.assert_close(
        predictions(target, inputs, Silent(), ""), predictions(source, inputs, Silent(), ""), rtol=1e-3, atol=1e-4
    )
    streams = Streams(tmp_path / "source", nets.SHAPE)
    given = original(network)
    wanted, _ = movement_of(source, inputs, given, Silent(), streams)
    fitted, held = list(range(8)), list(range(8, 12))

    maps = reconstruction._stream_maps(
        _own(target, inputs, tmp_path / "mine"), streams, fitted, {f"blocks.{n}": f"blocks.{n}" for n in range(3)}, 1.0
    )
    for found in maps.values():
        assert (found.T - turn).norm() < 0.1 * turn.norm()

    evidence = nets.evidence(inputs.only(fitted), wanted[:8], wanted[:8], streams, tmp_path / "target")
    new = reconstruct(target, evidence, {}, 4, Silent())
    assert set(new) == set(given)
    asked = inputs.only(held)
    without = predictions(target, asked, Silent(), "")
    reached = match(predictions(target, asked, Silent(), "", new) - without, wanted[8:])
    assert reached.explained > 0.95
    reused = match(predictions(target, asked, Silent(), "", given) - without, wanted[8:])
    assert reused.explained == pytest.approx(1, abs=1e-4) if how == "same" else reused.explained < 0.3


def _own(target: object, inputs: object, folder: Path) -> Streams:
    """The target's streams, kept as reconstruction keeps them."""
    streams = Streams(folder, nets.SHAPE)
    movement_of(target, inputs, {}, Silent(), streams)  # type: ignore[arg-type]
    return streams


def test_it_makes_up_what_an_adapter_leaves(tmp_path: Path) -> None:
    network = nets.Network(WIDTH)
    source = target = nets.model(network)
    inputs = nets.inputs(12)
    streams = Streams(tmp_path / "source", nets.SHAPE)
    given = original(network)
    wanted, _ = movement_of(source, inputs, given, Silent(), streams)
    start = {name: change for name, change in given.items() if not name.startswith("blocks.2")}
    evidence = nets.evidence(inputs.only(range(8)), wanted[:8], wanted[:8], streams, tmp_path / "target")
    new = reconstruct(target, evidence, start, 4, Silent())
    asked = inputs.only(range(8, 12))
    without = predictions(target, asked, Silent(), "")
    before = match(predictions(target, asked, Silent(), "", start) - without, wanted[8:])
    # What is left belongs to the last block; the others are found to need next to nothing.
    sizes = {name: c.norm() for name, c in new.items()}
    rest = [size for name, size in sizes.items() if not name.startswith("blocks.2")]
    assert max(rest) < 0.2 * max(sizes.values())
    on_top = Reconstruction(4, on_top_of="start")
    both = on_top.improve(Target(target, {}), evidence, Start("start", start), Silent())
    after = match(predictions(target, asked, Silent(), "", both) - without, wanted[8:])
    assert after.explained > 0.9 > before.explained


def test_runs_are_counted(tmp_path: Path) -> None:
    network = nets.Network(WIDTH)
    model, inputs = nets.model(network), nets.inputs(3)
    streams = Streams(tmp_path / "source", nets.SHAPE)
    wanted, without = movement_of(model, inputs, original(network), Silent(), streams)
    calls, ends = [], []
    network.register_forward_pre_hook(lambda *_: calls.append(1))
    network.last.register_forward_pre_hook(lambda *_: ends.append(1))
    reconstruct(model, nets.evidence(inputs, wanted, without, streams, tmp_path / "t"), {}, 2, Silent())
    assert len(calls) == Reconstruction().cost(Scale(3, 15, 3))
    # Only those that look at every stream go to the end.
    assert len(ends) == 3


def test_blocks_are_paired_by_resolution_and_depth() -> None:
    among = [BlockFacts("a", 1, 0.0), BlockFacts("b", 2, 0.5), BlockFacts("c", 1, 1.0)]
    assert partner(BlockFacts("x", 1, 0.4), among).name == "a"
    assert partner(BlockFacts("x", 1, 0.6), among).name == "c"
    assert partner(BlockFacts("x", 2, 0.0), among).name == "b"
    assert partner(BlockFacts("x", 3, 0.0), among).name == "b"


def test_blocks_of_a_pruned_relative_are_paired_by_name() -> None:
    whole = [BlockFacts(name, 1, place / 3) for place, name in enumerate("abcd")]
    pruned = [BlockFacts("a", 1, 0.0), BlockFacts("d", 1, 1.0), BlockFacts("b", 1, 0.9)]
    assert partners(pruned, whole) == {"a": "a", "d": "d", "b": "b"}
    back = partners(whole, pruned)
    assert (back["a"], back["b"], back["d"]) == ("a", "b", "d")
    assert back["c"] == "b"
    # A name in common of models that are no relatives means nothing.
    other = [BlockFacts("d", 1, 0.0), BlockFacts("z", 1, 1.0)]
    assert partners(other, whole) == {"d": "a", "z": "d"}


def test_streams_come_back_as_they_went_and_the_same_places_meet(tmp_path: Path) -> None:
    streams = Streams(tmp_path, (4, 32, 32))
    wide = torch.arange(1024.0).reshape(1, 1024, 1).repeat(1, 1, 2) * 1e5
    streams.put(0, "stream", {"fine": streams.chosen("fine", wide)})
    kept = streams.get(0, "stream")["fine"]
    assert kept.shape == (256, 2)
    assert (kept[:, 0] / 1e5 - kept[:, 0].div(1e5).round()).abs().max() < 1
    coarse = streams.chosen("coarse", torch.zeros(1, 64, 2))
    assert [f.level for f in streams.facts()] == [0, 2]
    here, there = same_places(coarse, kept, 1.0)
    assert here.shape == there.shape == (64, 2)
    rows = (there[:, 0] / 1e5).round() // 32
    assert sorted(set(rows.tolist())) == [pytest.approx(r, abs=2) for r in range(3, 32, 4)]


def test_levels_are_told_by_what_is_run_and_not_by_what_a_model_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nets.Network(WIDTH)
    source, target = nets.model(network), nets.model(network)
    target.shape = (4, 16, 16)
    streams, inputs, seen = Streams(tmp_path / "source", nets.SHAPE), nets.inputs(2), []

    def paired(mine: list[BlockFacts], others: list[BlockFacts]) -> dict[str, str]:
        seen.append(([fact.level for fact in mine], [fact.level for fact in others]))
        return partners(mine, others)

    monkeypatch.setattr(reconstruction, "partners", paired)
    wanted, without = movement_of(source, inputs, original(network), Silent(), streams)
    reconstruct(target, nets.evidence(inputs, wanted, without, streams, tmp_path / "t"), {}, 2, Silent())
    assert seen == [([0, 0, 0], [0, 0, 0])]


@pytest.mark.parametrize("sides", [(8, 8), (16, 16), (12, 24), (64, 64), (9, 6)])
def test_tokens_of_a_grid_lie_where_they_should(sides: tuple[int, int]) -> None:
    height, width = sides
    chosen = grid(height * width, width / height, 64)
    assert len(set(chosen.tolist())) == len(chosen) <= 72
    y, x = (chosen // width + 0.5) / height, (chosen % width + 0.5) / width
    assert abs(float(y.mean()) - 0.5) < 0.51 / math.sqrt(len(chosen))
    assert abs(float(x.mean()) - 0.5) < 0.51 / math.sqrt(len(chosen))


def test_coarse_and_fine_grids_lie_at_the_same_places() -> None:
    coarse, fine = grid(16 * 16, 1.0, 64), grid(64 * 64, 1.0, 64)
    assert len(coarse) == len(fine) == 64
    for tokens, size in ((coarse, 16), (fine, 64)):
        y, x = (tokens // size + 0.5) / size, (tokens % size + 0.5) / size
        even = (torch.arange(8) + 0.5) / 8
        assert (y.reshape(8, 8)[:, 0] - even).abs().max() <= 0.5 / size + 1e-6
        assert (x.reshape(8, 8)[0] - even).abs().max() <= 0.5 / size + 1e-6


def test_what_is_found_is_added_to_what_it_begins_with(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    one = {
        "a": Update(Factors(torch.randn(5, 2), torch.randn(2, 4))),
        "b": Update(weight=torch.randn(5, 4)),
        "c": Update(bias=torch.ones(5)),
    }
    more = {name: Update(Factors(torch.randn(5, 1), torch.randn(1, 4))) for name in "abcd"}
    monkeypatch.setattr(reconstruction, "reconstruct", lambda *_: more)
    nothing, target = (
        nets.evidence(nets.inputs(1), torch.zeros(1), torch.zeros(1)),
        Target(nets.model(nets.Network()), {}),
    )
    joined = Reconstruction(1, on_top_of="start").improve(target, nothing, Start("start", one), Silent())
    for name in "abcd":
        before = one[name].matrix() if name in "ab" else torch.zeros(5, 4)
        torch.testing.assert_close(joined[name].matrix(), before + more[name].matrix(), rtol=1e-4, atol=1e-5)
    assert joined["c"].bias is not None
    assert joined["a"].factors is not None
    assert joined["a"].factors.rank == 3
