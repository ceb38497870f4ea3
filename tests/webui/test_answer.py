"""The answer that a result begins with, by hand: it says no more than what is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lib_transfer.conversion.outcome import Outcome, Status
from lib_transfer.evaluation.gain import Gain
from lib_transfer.evaluation.record import Record
from lib_transfer.evaluation.thresholds import FAR, TRANSFERS
from lib_transfer.webui.transfer.answer import Answer, Known, Ways, answer

FACTS: dict[str, Any] = {
    "modules": 4,
    "decisions": {"transferred": 4},
    "tensors": 8,
    "tensors_carried": 8,
    "lost": [],
    "energy_kept": 1.0,
    "unmeasured": 0,
    "changes_nothing": False,
    "change_from_reuse": 0.2,
}
BIASES = [{"what": "bias", "count": 3, "tensors": 3, "reason": "The target's layer has none.", "example": "a"}]
KNOW = "The weights cannot tell whether it works: compare pictures in a WebUI, at the same seed."


def outcome(status: Status = "written", *, message: str = "", hint: str = "", why: str = "", **facts: Any) -> Outcome:
    path = Path("/x/cat_tuned.safetensors") if status in ("written", "already done") else None
    summary = {**FACTS, **facts} if status in ("written", "already done", "analysed") else None
    return Outcome("a/cat", "base", "tuned", status, message, hint, summary=summary, path=path, why=why)


KNOWN, NO_WAY = Known("cat_tuned", "rotation"), Ways()


def said(of: Outcome, known: Known = KNOWN, ways: Ways = NO_WAY) -> Answer:
    return answer(of, known, ways)


@pytest.mark.parametrize(
    ("status", "facts", "known", "sentence"),
    [
        ("written", {}, {}, "Transferred: expect about what plain reuse gives."),
        ("already done", {}, {}, "Transferred already: expect about what plain reuse gives."),
        ("analysed", {}, {}, "Can be transferred: expect about what plain reuse gives."),
        ("written", {}, {"method": "prolora"}, "Transferred: expect no more than what plain reuse gives."),
        ("written", {}, {"method": ""}, "Transferred: expect no more than what plain reuse gives."),
        (
            "written",
            {},
            {"strength": 0.5},
            "Transferred: expect about what plain reuse gives at a weight of 0.5.",
        ),
        (
            "written",
            {"change_from_reuse": 0.004},
            {},
            "Reuse it as it is: the transfer changes less than 1.0 % of it.",
        ),
        (
            "written",
            {"change_from_reuse": 0.004},
            {"strength": 2.0},
            "Transferred: expect about what plain reuse gives at a weight of 2.",
        ),
        (
            "written",
            {"change_from_reuse": 0.0},
            {"method": "reuse"},
            "Written as it is: it does what plain reuse does.",
        ),
        (
            "analysed",
            {"change_from_reuse": 0.0},
            {"method": "reuse", "strength": 0.5},
            "Can be written as it is: it does what plain reuse does at a weight of 0.5.",
        ),
        (
            "written",
            {"change_from_reuse": None},
            {},
            "Transferred. Whether it works cannot be known without running the models.",
        ),
        ("written", {"energy_kept": 0.8}, {}, "Transferred in part: 20.0 % of its update was lost."),
        (
            "written",
            {"energy_kept": 0.3},
            {"method": "lora-x"},
            "Transferred in part: 70.0 % of its update was lost; plain reuse may do better.",
        ),
        (
            "written",
            {"energy_kept": 0.3, "change_from_reuse": None},
            {},
            "Transferred in part: 70.0 % of its update was lost.",
        ),
        (
            "written",
            {"energy_kept": 0.8, "unmeasured": 2},
            {},
            "Transferred in part: at least 20.0 % of its update was lost.",
        ),
        (
            "written",
            {"energy_kept": None, "unmeasured": 2},
            {},
            "Transferred in part: how much of it was lost is not known.",
        ),
        ("written", {"lost": BIASES, "tensors_carried": 5}, {}, "Transferred in part: 3 biases not carried."),
        (
            "analysed",
            {"energy_kept": 0.8},
            {"method": "reuse"},
            "Can be transferred in part: 20.0 % of its update was lost.",
        ),
        (
            "written",
            {"changes_nothing": True},
            {},
            "This LoRA changes nothing: every update in it is zero, on its own checkpoint too.",
        ),
        # An output whose metadata somebody has edited.
        (
            "already done",
            {"energy_kept": "all", "change_from_reuse": [], "lost": 3, "unmeasured": "x"},
            {"method": "", "name": ""},
            "Transferred already in part: how much of it was lost is not known.",
        ),
    ],
)
def test_what_a_transfer_alone_tells(
    status: Status, facts: dict[str, Any], known: dict[str, Any], sentence: str
) -> None:
    found = said(outcome(status, **facts), Known(**{"name": "cat_tuned", "method": "rotation", **known}))
    assert found.sentence == sentence
    assert found.use == ("" if status == "analysed" else "cat_tuned")
    nothing = facts.get("changes_nothing")
    analysed = "Nothing was written: Analyse only shows what a transfer comes to."
    assert found.more == ((analysed,) if status == "analysed" else () if nothing else (KNOW,))


@pytest.mark.parametrize(
    ("ways", "how"),
    [
        (Ways(), KNOW),
        (Ways(pictures=True), "The weights cannot tell whether it works: compare pictures."),
        (
            Ways(verify=True, pictures=True),
            "The weights cannot tell whether it works: run the models (Verify), or compare pictures.",
        ),
        (
            Ways(verify=True, pictures=True, seconds=121.0),
            "The weights cannot tell whether it works: run the models (Verify, about 2 min), or compare pictures.",
        ),
    ],
)
def test_how_to_find_out_more_in_this_program(ways: Ways, how: str) -> None:
    assert said(outcome(), ways=ways).more == (how,)


def test_where_nothing_was_written() -> None:
    found = said(
        outcome("left out", why="trained on the target", message="This LoRA was trained on the target itself.")
    )
    assert found == Answer("It fits: it was trained on tuned itself, so use it as it is.", (), "cat")
    found = said(outcome("left out", message="Skipped; nothing was written."))
    assert found == Answer("Left out: nothing was written.", ("Skipped; nothing was written.",))
    found = said(outcome("failed", message="The file ends early.", hint="Copy it again."))
    assert found == Answer("Not transferred: nothing was written.", ("The file ends early.", "Copy it again."))
    found = said(outcome("nothing carried"))
    assert found == Answer("Nothing of this LoRA can be carried to tuned, so nothing was written.")
    # Running the models found that it can be carried, and does nothing there.
    judged = "None transfers: the best, reuse, has a gain of 0.10."
    found = said(outcome("nothing carried", message=judged))
    assert found == Answer("It does not work on tuned, so nothing was written.", (judged,))


def recorded(gains: dict[str, float], gap: float) -> Record:
    """A verification that keeps reuse unless another gains 0.2 more and the checkpoints draw the same pictures."""
    most = max(gains, key=lambda name: gains[name])
    ahead = "reuse" not in gains or (gap <= FAR and gains[most] > gains["reuse"] + 0.2)
    best = None if gains[most] < TRANSFERS else most if ahead else "reuse"
    return Record({name: Gain(value) for name, value in gains.items()}, "", gap=gap, best=best)


PART = "Only a part of what the LoRA does on its own checkpoint comes through."


@pytest.mark.parametrize(
    ("gains", "gap", "sentence", "more"),
    [
        ({"cat_tuned": 0.81, "reuse": 0.52}, 0.1, "Better than reuse: 0.81 against 0.52.", ()),
        ({"cat_tuned": 0.50, "reuse": 0.20}, 0.1, "Better than reuse: 0.50 against 0.20.", (PART,)),
        ({"cat_tuned": 0.85, "reuse": 0.80}, 0.2, "About as good as reuse: 0.85 against 0.80.", ()),
        # All that it gains more is the look of the source's pictures.
        ({"cat_tuned": 0.81, "reuse": 0.67}, 0.28, "About as good as reuse: 0.81 against 0.67.", ()),
        ({"cat_tuned": 0.75, "reuse": 0.80}, 0.1, "About as good as reuse: 0.75 against 0.80.", ()),
        (
            {"cat_tuned": 0.40, "reuse": 0.80},
            0.1,
            "Worse than reuse, so use the original as it is: 0.40 against 0.80.",
            (PART,),
        ),
        (
            {"cat_tuned": 0.10, "reuse": -math.inf},
            0.1,
            "It does not transfer, and neither does reuse: 0.10 against far below 0, where 1 is the whole gain.",
            (),
        ),
        ({"cat_tuned": 0.10}, 0.1, "It does not transfer: 0.10, where 1 is the whole gain.", ()),
        (
            {"cat_tuned": 0.80},
            0.1,
            "It transfers: 0.80, where 1 is the whole gain; plain reuse is not possible.",
            (),
        ),
        (
            {"cat_tuned": 0.90, "reuse": 0.20},
            2.5,
            "Running the models cannot tell: the two checkpoints draw different pictures.",
            ("Compare pictures.",),
        ),
        # The file was renamed after it was verified.
        ({"older name": 0.81, "reuse": 0.52}, 0.1, "Better than reuse: 0.81 against 0.52.", ()),
        ({"reuse": 0.52}, 0.1, "About as good as reuse: 0.52 against 0.52.", (PART,)),
    ],
)
def test_what_a_verification_tells(gains: dict[str, float], gap: float, sentence: str, more: tuple[str, ...]) -> None:
    record = recorded(gains, gap)
    known = Known("cat_tuned", "rotation", verified=record)
    assert said(outcome(), known) == Answer(sentence, more, "cat_tuned")
    analysed = said(outcome("analysed"), known)
    assert (analysed.sentence, analysed.more[-1]) == (
        sentence,
        "The transferred LoRA that is there already was measured.",
    )


@pytest.mark.parametrize(
    ("gains", "gap", "sentence", "more"),
    [
        ({"reuse": 0.43, "imitate": 0.94}, 0.1, "Better than reuse: 0.94 against 0.43.", ()),
        ({"reuse": 0.20, "imitate": 0.50}, 0.1, "Better than reuse: 0.50 against 0.20.", (PART,)),
        (
            {"imitate": 0.81},
            0.1,
            "It transfers: 0.81, where 1 is the whole gain; plain reuse is not possible.",
            (),
        ),
        (
            {"reuse": 0.98, "imitate": 0.99},
            0.1,
            "Reuse was kept: the LoRA does on this checkpoint what it does as it is: 0.98, against 0.99 of one that was trained, "
            "where 1 is the whole gain.",
            (),
        ),
        (
            {"reuse": 0.50},
            0.2,
            "Reuse was kept: the LoRA does on this checkpoint what it does as it is: 0.50, where 1 is the whole gain.",
            (PART,),
        ),
        (
            {"reuse": 0.90},
            7.0,
            "Reuse was kept: the LoRA does on this checkpoint what it does as it is. Running the models cannot tell how good "
            "that is.",
            ("The two checkpoints draw different pictures. Compare pictures.",),
        ),
        (
            {"imitate": 0.90},
            7.0,
            "A LoRA was trained, and running the models cannot tell how good it is.",
            ("The two checkpoints draw different pictures.", "Compare pictures."),
        ),
    ],
)
def test_what_the_automatic_method_came_to(
    gains: dict[str, float], gap: float, sentence: str, more: tuple[str, ...]
) -> None:
    record = recorded(gains, gap)
    assert said(outcome(), Known("cat_auto", "auto", verified=record)) == Answer(sentence, more, "cat_auto")
