"""What verifications leave in the metadata of an output: the last first, one for each conditions, and nothing believed."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from lib_transfer.evaluation.choice import Choice
from lib_transfer.evaluation.conditions import Conditions, conditions_in, trained_clip_skip
from lib_transfer.evaluation.gain import Gain
from lib_transfer.evaluation.imitation import Imitation
from lib_transfer.evaluation.record import KEPT, OUTDATED, noted, records_in
from lib_transfer.evaluation.result import Evaluation

NONE = -math.inf


def conditions(clip_skip: int = 1, seed: int = 0) -> Conditions:
    return Conditions((clip_skip, clip_skip), (512, 512), seed, 2, ("a cat", "a dog"))


def found(share: float, under: Conditions | None) -> Evaluation:
    gains = {"copy": Gain(share, 0.1, 0.25), "reuse": Gain(NONE)}
    return Evaluation(gains, {}, 0.1, Choice("copy", "It is best."), ("Left out.",), conditions=under)


def after(*made: Evaluation) -> dict[str, str]:
    """The metadata of an output after these verifications."""
    metadata: dict[str, str] = {}
    for each in made:
        metadata["transfer_lora.match"] = noted(metadata, each.facts())
    return metadata


def test_what_is_noted_is_read_back() -> None:
    curve = Imitation({}, (0.5, 0.25, 0.125, 0.1), (0.2, 0.4, 0.5, 0.75))
    made = replace(found(-0.7, conditions(2)), gains={"reuse": Gain(0.5), "copy": Gain(NONE, 0.0, 2.5)}, curve=curve)
    [record] = records_in(after(made))
    assert list(record.gains.items()) == list(made.gains.items())
    assert (record.gap, record.judged) == (0.1, True)
    assert record.training is not None
    assert record.training.losses == curve.losses
    assert record.training.gains == ((1, 0.2), (2, 0.4), (3, 0.5), (4, 0.75))
    assert record.advice == "Left out. It is best."
    assert record.conditions == conditions(2)


def test_those_under_other_conditions_stay_and_the_last_comes_first() -> None:
    metadata = after(found(-10.99, conditions(2)), found(-0.7, conditions(1)), found(0.4, conditions(1, seed=5)))
    read = records_in(metadata)
    assert [each.gains["copy"].share for each in read] == [0.4, -0.7, -10.99]
    assert [each.conditions for each in read] == [conditions(1, seed=5), conditions(1), conditions(2)]
    # Again under conditions that were there: it takes the place of the old one, at the front.
    metadata["transfer_lora.match"] = noted(metadata, found(-10.5, conditions(2)).facts())
    assert [each.gains["copy"].share for each in records_in(metadata)] == [-10.5, 0.4, -0.7]
    # The facts of the last one stand where they stood before there were several.
    assert json.loads(metadata["transfer_lora.match"])["gains"]["copy"]["gain"] == -10.5


def test_their_number_is_bounded() -> None:
    read = records_in(after(*(found(0.1, conditions(seed=seed)) for seed in range(KEPT + 5))))
    assert [each.conditions.seed for each in read if each.conditions] == list(range(KEPT + 4, 4, -1))


def test_one_of_an_older_version_stays_without_conditions() -> None:
    metadata = after(found(0.2, None), found(0.3, conditions()))
    assert [each.conditions for each in records_in(metadata)] == [conditions(), None]


def test_one_by_another_measure_is_not_read_and_says_so() -> None:
    old = {"schema": 2, "matches": {"copy": {"explained": 0.5, "each": [0.5]}}, "reason": "x"}
    [record] = records_in({"transfer_lora.match": json.dumps({**old, "conditions": conditions().facts()})})
    assert (record.gains, record.advice) == ({}, OUTDATED)
    assert record.conditions == conditions()


def test_a_large_gap_cannot_be_judged() -> None:
    for gap in (2.5, math.inf):
        [record] = records_in(after(replace(found(0.5, None), gap=gap)))
        assert (record.gap, record.judged) == (gap, False)


GOOD = {"gap": 0.1, "gains": {"copy": {"gain": 0.5, "error": 0.0, "damage": None}}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[" * 100_000,
        "[]",
        "3",
        "{}",
        json.dumps({"gains": {}}),
        json.dumps({"gains": []}),
        json.dumps({"gains": {"copy": 3}}),
        json.dumps({"gains": {"copy": {"gain": "1", "error": 0}}}),
        json.dumps({"gains": {"copy": {"gain": 1}}}),
        json.dumps({"gains": {"copy": {"gain": True, "error": 0}}}),
        json.dumps({**GOOD, "earlier": [3, {"gains": 1}], "gains": {"copy": {"gain": 1, "error": "x"}}}),
    ],
)
def test_what_is_no_verification_is_not_shown(text: str) -> None:
    assert records_in({"transfer_lora.match": text}) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"notes": 3}, {"reason": [1]}, {"conditions": 3}, {"earlier": "x"}, {"training": 3},
        {"training": {"losses": ["x"], "held_out": []}}, {"training": {"losses": [1], "held_out": [[1]]}},
    ],
)  # fmt: skip
def test_odd_entries_of_a_verification_are_left_out(change: dict[str, object]) -> None:
    [record] = records_in({"transfer_lora.match": json.dumps({**GOOD, **change})})
    assert (record.gains["copy"].share, record.advice, record.training) == (0.5, "", None)
    assert record.conditions is None


@pytest.mark.parametrize(
    "change",
    [
        {"clip_skip": 1},
        {"clip_skip": {"source": 1}},
        {"size": {"source": 1, "target": "x"}},
        {"seed": None},
        {"inputs": 0.5},
        {"prompts": "a"},
        {"prompts": [1]},
    ],
)
def test_what_are_no_conditions_are_none(change: dict[str, object]) -> None:
    facts = conditions().facts()
    assert conditions_in(facts) == conditions()
    assert conditions_in({**facts, **change}) is None


def test_conditions_in_words() -> None:
    assert (
        conditions(2).text == "This holds for Clip skip 2, pictures of 512 pixels, seed 0, and 2 inputs of 2 prompts."
    )
    other = Conditions((1, 2), (512, 1024), 7, 1, ("a cat",))
    assert other.text == (
        "This holds for Clip skip 1 on the source and 2 on the target, pictures of 512 on the source and 1024 on the target "
        "pixels, seed 7, and 1 input of 1 prompt."
    )


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2", 2),
        (" 1 ", 1),
        ("12", 12),
        ("None", None),
        ("", None),
        ("0", None),
        ("13", None),
        ("-2", None),
        ("2.0", None),
        ("²", None),
        ("9" * 5000, None),
    ],
)
def test_the_clip_skip_that_metadata_tell(text: str, number: int | None) -> None:
    assert trained_clip_skip({"ss_clip_skip": text}) == number
    assert trained_clip_skip({}) is None
