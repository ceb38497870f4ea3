"""Training by imitation: its gradients, its optimiser, what it reaches, and that it goes on where it was stopped or killed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from lib_transfer.errors import CancelledError, StorageError
from lib_transfer.evaluation import imitation
from lib_transfer.evaluation.imitation import COST, State, adam, cosine, imitate, looks
from lib_transfer.evaluation.kept import Kept
from lib_transfer.evaluation.student import (
    RoleStats,
    Student,
    begun,
    by_work,
    role_of,
    stats_of_roles,
    with_unit_rows,
    work_of,
)
from lib_transfer.evaluation.teacher import Batches, teach
from lib_transfer.linalg.factors import Factors
from lib_transfer.models import Model, applied
from lib_transfer.models.model import predict
from lib_transfer.progress import Silent
from lib_transfer.storage.cache import Cache
from lib_transfer.update import Update, Updates
from tests.architecture.known import known
from tests.evaluation import nets

PROMPTS = ("red one", "blue two", "three")
BATCHES = Batches(PROMPTS, 12, 4, 3)
CLEAN = torch.randn((3, *nets.SHAPE), generator=torch.Generator().manual_seed(1))


class Stop(Silent):
    """Stops before a run."""

    def __init__(self, after: int) -> None:
        self.after, self.steps = after, 0

    def step(self, what: str) -> None:
        self.steps += 1

    def cancelled(self) -> bool:
        return self.steps >= self.after


def kept(folder: Path) -> Kept:
    return Kept(Cache(folder), "imitations", ("test",))


def student(network: nn.Module, original: Updates, reuse: Updates | None = None) -> Student:
    modules = nets.modules(network)
    model = nets.model(network)
    return begun(stats_of_roles(original, modules), modules, model.places, original if reuse is None else reuse, 0)


def bits(network: nn.Module) -> list[bytes]:
    return [parameter.detach().numpy().tobytes() for parameter in network.parameters()]


def taught(network: nn.Module, original: Updates, folder: Path, batches: Batches = BATCHES) -> tuple[Model, Kept]:
    """A model whose teacher is itself with a LoRA, and what it was taught."""
    model, shelf = nets.model(network), kept(folder)
    teach(model, original, CLEAN, batches, shelf, Silent())
    return model, shelf


def test_the_gradients_are_those_of_differences(tmp_path: Path) -> None:
    """In float64, of every factor at one entry, for a batch of four inputs."""
    network = nets.Network().double()
    network.register_forward_pre_hook(lambda _, given: (given[0].double(), *given[1:]))
    nets_words = nets.words
    model = nets.model(network)
    original = nets.adapter(network)
    begin = student(network, original)
    state = State.new(begin)
    inputs = BATCHES.inputs(CLEAN, 0)
    wanted = torch.randn(inputs.clean.shape, generator=torch.Generator().manual_seed(2))
    pytest.MonkeyPatch().setattr(nets, "words", lambda prompt: nets_words(prompt).double())
    try:
        for value in state.values:
            value.requires_grad_()
        gradients, loss = imitation._gradients(model, begin, state, inputs, wanted, Silent())

        def lost() -> float:
            with applied(model.places, imitation._now(begin, state).whole()):
                said = torch.cat([predict(model, one) for one in inputs])
            return float((said.double() - wanted.double()).square().mean())

        assert loss == pytest.approx(lost(), rel=1e-5)
        for value, gradient in list(zip(state.values, gradients, strict=True))[::7]:
            place = int(gradient.abs().argmax())
            step, at = 3e-3, value.detach().reshape(-1)
            before = float(at[place])
            at[place] = before + step
            high = lost()
            at[place] = before - step
            low = lost()
            at[place] = before
            assert float(gradient.reshape(-1)[place]) == pytest.approx((high - low) / (2 * step), rel=0.02)
    finally:
        pytest.MonkeyPatch().setattr(nets, "words", nets_words)


def test_a_step_is_that_of_torchs_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(3, 2, generator=generator), torch.randn(2, 5, generator=generator)]
    theirs = [value.clone().requires_grad_() for value in values]
    optimiser = torch.optim.Adam([{"params": [p]} for p in theirs], betas=imitation.BETAS, eps=imitation.EPSILON)
    state = State(0, values, [torch.zeros_like(v) for v in values], [torch.zeros_like(v) for v in values])
    for _ in range(4):
        gradients = [torch.randn(v.shape, generator=generator) for v in values]
        for group, rate in zip(optimiser.param_groups, (0.1, 0.03), strict=True):
            group["lr"] = rate
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimiser.step()
        adam(state, gradients, [0.1, 0.03])
        state.step += 1
    for ours, other in zip(state.values, theirs, strict=True):
        torch.testing.assert_close(ours, other.detach())


def test_the_rate_is_a_cosine_and_gradients_are_clipped() -> None:
    assert [cosine(step, 4) for step in (0, 2, 4)] == pytest.approx([1, 0.5, 0])
    large = [torch.tensor([3.0]), torch.tensor([4.0])]
    assert imitation.clipped(large)
    assert [float(g) for g in large] == pytest.approx([0.6, 0.8])
    assert not imitation.clipped([torch.tensor([float("inf")])])
    assert looks(12) == (3, 6, 9)
    assert looks(1) == ()


def test_a_batch_has_a_time_in_every_part_and_every_picture_has_its_turn() -> None:
    inputs = BATCHES.inputs(CLEAN, 5)
    assert sorted((inputs.times * 4).long().tolist()) == [0, 1, 2, 3]
    again = BATCHES.inputs(CLEAN, 5)
    assert torch.equal(inputs.noise, again.noise)
    assert not torch.equal(inputs.noise, BATCHES.inputs(CLEAN, 6).noise)
    every = [place for step in range(3) for place in BATCHES.chosen(step)]
    assert [sorted(every[begin : begin + 3]) for begin in range(0, 12, 3)] == [[0, 1, 2]] * 4
    # The noise of a step depends on its number alone, not on how many steps there are.
    assert torch.equal(dataclasses.replace(BATCHES, steps=99).inputs(CLEAN, 5).noise, inputs.noise)


@pytest.mark.parametrize("reuse", [True, False])
def test_a_teacher_that_can_be_reached_is_reached(tmp_path: Path, *, reuse: bool) -> None:
    """From a LoRA of a third of the strength, and from nothing; no weight of the model changes by a bit."""
    network = nets.Network(blocks=1)
    original = nets.adapter(network)
    batches = dataclasses.replace(BATCHES, steps=120, batch=6)
    model, shelf = taught(network, original, tmp_path, batches)
    before, progress = bits(network), Stop(10**9)
    weak = {name: update.scaled(0.3) for name, update in original.items()}
    begin = student(network, original, weak if reuse else {})
    assert begin.reused == (frozenset(original) if reuse else frozenset())
    found = imitate(model, begin, CLEAN, batches, shelf, progress, look=lambda updates: float(len(updates)))
    assert bits(network) == before
    assert all(parameter.grad is None for parameter in network.parameters())
    assert progress.steps == COST * batches.runs
    assert len(found.losses) == 120
    first, last = sum(found.losses[:10]) / 10, sum(found.losses[-10:]) / 10
    assert last < (0.05 if reuse else 0.2) * first
    assert found.gains == (float(len(original)),) * 3
    facts = found.facts()
    assert (facts["steps"], [step for step, _ in facts["held_out"]]) == (120, [30, 60, 90])


def test_another_latent_space_is_learned_from_the_noise(tmp_path: Path) -> None:
    """Exactly: what an ideal painter predicts of pictures of another colour is reached without any teacher."""
    painter = nets.Painter()
    model, original = painter.model(), painter.style()
    with applied(model.places, original):
        colour = painter.colour(["styled red", "styled blue"]).detach()
    batches = Batches(("styled red", "styled blue") * 4, 60, 8, 0)
    chance = torch.Generator().manual_seed(0)
    pictures = colour.repeat(4, 1, *nets.SHAPE[1:]) + 0.5 * torch.randn((8, *nets.SHAPE), generator=chance)
    modules = nets.modules(painter)
    begin = begun(stats_of_roles(original, modules), modules, model.places, {}, 0)
    found = imitate(model, begin, pictures, batches, kept(tmp_path), Silent(), teacher=False)
    was = float((painter.colour(["styled red", "styled blue"]) - colour).detach().norm())
    with applied(model.places, found.updates):
        now = float((painter.colour(["styled red", "styled blue"]) - colour).detach().norm())
    assert now < 0.15 * was


def same(one: Updates, other: Updates) -> bool:
    pairs = [(one[name].factors, other[name].factors) for name in one]
    return one.keys() == other.keys() and all(
        a is not None and b is not None and torch.equal(a.up, b.up) and torch.equal(a.down, b.down) for a, b in pairs
    )


def test_one_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    network = nets.Network(blocks=1)
    original = nets.adapter(network)
    model, shelf = taught(network, original, tmp_path / "one")
    whole = imitate(model, student(network, original), CLEAN, BATCHES, shelf, Silent())
    model, shelf = taught(network, original, tmp_path / "other")
    before = bits(network)
    stop = Stop(COST * BATCHES.batch * 10)
    with pytest.raises(CancelledError):
        imitate(model, student(network, original), CLEAN, BATCHES, shelf, stop)
    assert bits(network) == before
    rest = Stop(10**9)
    found = imitate(model, student(network, original), CLEAN, BATCHES, shelf, rest)
    # Step 8 was kept; 9 and 10 are done again.
    assert rest.steps == COST * BATCHES.batch * (BATCHES.steps - imitation.SAVE_EVERY)
    assert same(found.updates, whole.updates)
    assert found.losses == whole.losses


KILLED = """
    import sys
    from pathlib import Path
    from lib_transfer.evaluation.imitation import imitate
    from lib_transfer.progress import Silent
    from tests.evaluation import nets
    from tests.evaluation.test_imitation import CLEAN, BATCHES, student, taught

    network = nets.Network(blocks=1)
    original = nets.adapter(network)

    class Slow(Silent):
        steps = 0
        def step(self, what):
            self.steps += 1
            if self.steps == 3 * BATCHES.batch * 10:
                Path(sys.argv[2]).touch()
                import time; time.sleep(600)

    model, shelf = taught(network, original, Path(sys.argv[1]))
    imitate(model, student(network, original), CLEAN, BATCHES, shelf, Slow())
"""


def test_one_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    network = nets.Network(blocks=1)
    original = nets.adapter(network)
    model, shelf = taught(network, original, tmp_path / "one")
    whole = imitate(model, student(network, original), CLEAN, BATCHES, shelf, Silent())
    sign = tmp_path / "there"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "other"), str(sign)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    while not sign.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    rest = Stop(10**9)
    shelf = kept(tmp_path / "other")
    found = imitate(model, student(network, original), CLEAN, BATCHES, shelf, rest)
    assert rest.steps == COST * BATCHES.batch * (BATCHES.steps - imitation.SAVE_EVERY)
    assert same(found.updates, whole.updates)


def test_what_was_kept_of_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    network = nets.Network(blocks=1)
    original = nets.adapter(network)
    model, shelf = taught(network, original, tmp_path)
    imitate(model, student(network, original), CLEAN, BATCHES, shelf, Silent())
    progress = Stop(10**9)
    fewer = nets.adapter(network, ("attn1.",))
    imitate(model, student(network, fewer), CLEAN, BATCHES, shelf, progress)
    assert progress.steps == COST * BATCHES.runs


def test_lessons_that_are_gone_are_told(tmp_path: Path) -> None:
    network = nets.Network(blocks=1)
    original = nets.adapter(network)
    model, shelf = taught(network, original, tmp_path)
    shelf.drop("teacher", 1)
    with pytest.raises(StorageError, match="could not be kept"):
        imitate(model, student(network, original), CLEAN, BATCHES, shelf, Silent())


def test_weights_stay_after_an_exception_in_the_program(tmp_path: Path) -> None:
    network = nets.Network(blocks=1)
    original = nets.adapter(network)
    model, shelf = taught(network, original, tmp_path)
    before, calls = bits(network), []

    def broken(*_: object) -> None:
        calls.append(1)
        if len(calls) == 7:
            raise RuntimeError("of the program")

    handle = network.last.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="of the program"):
        imitate(model, student(network, original), CLEAN, BATCHES, shelf, Silent())
    handle.remove()
    assert bits(network) == before
    assert not any(module._forward_hooks for module in network.modules())


def test_every_module_of_a_role_is_trained_at_the_loras_rank() -> None:
    network, larger = nets.Network(), nets.Network(width=16, blocks=5)
    original = nets.adapter(network, ("attn1.", "ff."))
    stats = stats_of_roles(original, nets.modules(network))
    modules = nets.modules(larger)
    begin = begun(stats, modules, nets.model(larger).places, {}, 0)
    assert set(begin.factors) == {m.name for m in modules if m.position.role.startswith(("attn1.", "ff."))}
    assert {factors.rank for factors in begin.factors.values()} == {2}
    assert begin.whole() == {}
    assert {job.rank for job in stats_of_roles(original, nets.modules(network), 3).values()} == {3}
    # The size is that of `up` where `down` has rows of norm 1.
    module = next(m for m in nets.modules(network) if m.position.role == "attn1.to_q")
    same_role = [m for m in nets.modules(network) if m.position.role == "attn1.to_q"]
    sizes = []
    for each in same_role:
        u, s, _ = torch.linalg.svd(original[each.name].matrix().double())
        sizes.append(float((u[:, :2] * s[:2]).square().mean().sqrt()))
    assert stats[role_of(module)].size == pytest.approx(sum(sizes) / len(sizes), rel=1e-4)


def test_what_reuse_gives_is_the_same_change_before_the_first_step() -> None:
    network = nets.Network(blocks=1)
    original = nets.adapter(network)
    name, dense = "blocks.0.ff.net.0", "blocks.0.ff.net.2"
    biased = dataclasses.replace(original[name], bias=torch.ones(24))
    given = {**original, name: biased, dense: Update(weight=torch.randn(12, 24)), "last": Update(bias=torch.ones(4))}
    modules = nets.modules(network)
    begin = begun(stats_of_roles(given, modules), modules, nets.model(network).places, given, 0)
    whole = begin.whole()
    assert whole.keys() == given.keys()
    for each, update in given.items():
        if update.changes_weight:
            torch.testing.assert_close(whole[each].matrix(), update.matrix(), rtol=1e-4, atol=1e-5)
        if update.bias is not None:
            assert whole[each].bias is update.bias
    # A full difference stays, and factors are trained on top of it.
    assert begin.fixed[dense] is given[dense]
    assert not begin.factors[dense].up.any()
    more = dataclasses.replace(begin, factors={dense: Factors(torch.ones(12, 1), torch.ones(1, 24))})
    torch.testing.assert_close(more.whole()[dense].matrix(), given[dense].matrix() + 1)


def test_rows_of_norm_one_are_filled_up_with_what_changes_nothing() -> None:
    given = Factors(torch.randn(5, 2), torch.randn(2, 7))
    made = with_unit_rows(given, 4, "x", 0)
    assert made.rank == 4
    torch.testing.assert_close(made.up @ made.down, given.up @ given.down)
    torch.testing.assert_close(made.down[:2].norm(dim=1), torch.ones(2))
    assert not made.up[:, 2:].any()


def test_several_inputs_at_once_give_what_one_after_the_other_gives(tmp_path: Path) -> None:
    """Parts of three of four inputs: the batch is not a multiple."""
    network = nets.Network()
    original = nets.adapter(network)
    made = []
    for together in (1, 3):
        model, shelf = nets.model(network), kept(tmp_path / f"{together} at once")
        model.together = together
        begin = student(network, original, {})
        teach(model, original, CLEAN, BATCHES, shelf, Silent())
        made.append(imitate(model, begin, CLEAN, BATCHES, shelf, Silent()))
    one, several = made
    assert several.losses == pytest.approx(one.losses, rel=1e-4)
    for name, update in one.updates.items():
        assert torch.allclose(
            several.updates[name].matrix(), update.matrix(), atol=1e-4 * float(update.matrix().abs().max())
        )


def test_architectures_that_name_nothing_alike_correspond_by_the_kind_of_work() -> None:
    """A LoRA on Anima's attentions and feed-forwards trains those of Stable Diffusion 2, and nothing else."""
    layout = known("anima").core.slots()
    anima = [(False, slot.position.role) for slot in layout]
    changed = [
        role for role in anima if role[1].startswith(("self_attn", "cross_attn", "mlp")) and "norm" not in role[1]
    ]
    kinds = by_work({role: RoleStats(8, 0.1) for role in changed})
    assert set(kinds) == {(False, "attention"), (False, "feed-forward")}
    found = {slot.position.role for slot in known("sd2").core.slots() if work_of((False, slot.position.role)) in kinds}
    attentions = {f"attn{n}.to_{it}" for n in (1, 2) for it in ("q", "k", "v", "out.0")}
    assert found == attentions | {"ff.net.0.proj", "ff.net.2"}
