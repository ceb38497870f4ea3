"""The verdict tells what the numbers leave out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from lib_transfer.conversion.accounts import accounts_in
from lib_transfer.conversion.report import ModuleReport, TransferReport
from lib_transfer.formats.unread import Unread


def report(*modules: ModuleReport, unread: tuple[Unread, ...] = (), **more: Any) -> TransferReport:
    """A report of a file that has ``a.x`` for the module that is kept."""
    placed = tuple(replace(m, tensors=("a.x",)) if m.name == "a" and not m.tensors else m for m in modules)
    return TransferReport({}, "Rotation", "SD", "SD", placed, unread, **more)


KEPT = ModuleReport("a", None, "transferred", "by rotation", norm_before=3.0, norm_after=3.0, energy_kept=1.0)
MEASURED = ModuleReport("b", None, "no counterpart", "the target has no such module", norm_before=4.0)
UNMEASURED = ModuleReport("c", None, "unsupported", "its shape does not fit")


def test_what_was_lost_without_a_size_makes_the_share_a_bound() -> None:
    exact = report(KEPT, MEASURED)  # 3^2 of 3^2 + 4^2
    assert "; 36.0 % of the update's energy is in the output." in exact.verdict
    assert "  36.0 %" in exact.to_text()
    bound = report(KEPT, MEASURED, UNMEASURED)
    assert (
        "at least 64.0 % of the update's energy is lost: the size of 1 module more, not carried, is not known."
        in bound.verdict
    )
    assert "at most 36.0 %" in bound.to_text()
    assert (bound.summary()["energy_kept"], bound.summary()["unmeasured"]) == (0.36, 1)


def test_nothing_is_said_where_only_what_has_no_size_was_lost() -> None:
    unknown = report(KEPT, UNMEASURED)
    assert "how much of the update was lost is not known: 1 module of unknown size not carried." in unknown.verdict
    assert "100" not in unknown.to_text() and "not known" in unknown.to_text()
    assert (unknown.summary()["energy_kept"], unknown.summary()["unmeasured"]) == (None, 1)


def test_what_could_not_be_read_counts_as_a_module_and_has_no_size() -> None:
    broken = Unread("c", ("c.lora_up.weight",), "broken", "It lacks lora_down.weight.")
    told = report(KEPT, unread=(broken,))
    assert "1 of 2 modules" in told.verdict and "Left out: 1 not read." in told.verdict
    assert told.summary()["decisions"] == {"transferred": 1, "not read": 1}
    assert told.totals.energy_kept is None


def test_scales_and_embeddings_are_no_part_of_the_energy() -> None:
    beside = (
        Unread("c", ("c.alpha",), "broken", "A scale without factors.", "scale"),
        Unread(
            "bundle_emb.d", ("bundle_emb.d.clip_l", "bundle_emb.d.clip_g"), "embedding", "Another encoder.", "embedding"
        ),
    )
    told = report(KEPT, unread=beside, file=("a.x", "c.alpha", "bundle_emb.d.clip_l", "bundle_emb.d.clip_g"))
    assert told.totals.energy_kept == 1.0 and told.totals.modules == 1
    assert "Not carried: 1 scale, 1 embedding (2 tensors)" in told.verdict


def test_a_tensor_that_nothing_is_known_of_is_named_all_the_same() -> None:
    told = report(KEPT, file=("a.x", "b.y")).accounts
    assert (told.tensors, told.carried, told.words) == (2, 1, "1 tensor")


def test_a_share_of_a_fused_weight_that_is_written_carries_its_tensors() -> None:
    parts = [
        ModuleReport(f"a [{p}]", None, decision, "", norm_before=1.0, energy_kept=1.0, tensors=("a.up", "a.down"))
        for p, decision in (("q", "transferred"), ("k", "below threshold"))
    ]
    told = report(*parts, file=("a.up", "a.down"))
    assert (told.accounts.carried, told.accounts.losses) == (2, ())
    lost = [replace(part, decision="below threshold") for part in parts]
    assert report(*lost, file=("a.up", "a.down")).accounts.words == "1 module (2 tensors)"


def test_an_update_of_zeros_is_said_to_change_nothing() -> None:
    zero = replace(KEPT, norm_before=0.0, norm_after=0.0, energy_kept=None)
    assert "changes nothing" in report(zero).verdict and report(zero).summary()["changes_nothing"] is True
    difference = Unread("c", ("c.diff",), "extra", "It stands beside factors.", "difference", 2.0)
    others = (
        report(zero, KEPT),
        report(zero, UNMEASURED),
        report(zero, unread=(difference,)),
        report(zero, bundled=("bundle_emb.x.clip_l",)),
    )
    for other in others:
        assert "changes nothing" not in other.verdict and other.summary()["changes_nothing"] is False


def test_accounts_are_read_from_a_summary_and_not_from_an_edited_one() -> None:
    lost = Unread("b", ("b.diff_b",), "extra", "There is no bias.", "bias")
    told = report(KEPT, unread=(lost,), file=("a.x", "b.diff_b"))
    facts = json.loads(json.dumps(told.summary()))
    assert accounts_in(facts) == told.accounts
    assert accounts_in({**facts, "lost": [{"what": 3}]}) is None
    assert accounts_in({key: value for key, value in facts.items() if key != "tensors"}) is None
