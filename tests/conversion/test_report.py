"""The verdict tells what the numbers leave out."""

from __future__ import annotations

from lib_transfer.conversion.report import ModuleReport, TransferReport


def report(*modules: ModuleReport) -> TransferReport:
    return TransferReport({}, "Rotation", "SD", "SD", modules, ())


def test_what_was_lost_without_a_size_is_said_not_to_be_counted() -> None:
    kept = ModuleReport("a", None, "transferred", "by rotation", norm_before=3.0, norm_after=3.0, energy_kept=1.0)
    measured = ModuleReport("b", None, "no counterpart", "the target has no such module", norm_before=4.0)
    unmeasured = ModuleReport("c", None, "unsupported", "its shape does not fit")
    assert "not counted" not in report(kept, measured).verdict
    assert "36.0 %" in report(kept, measured).verdict  # 3^2 of 3^2 + 4^2
    assert (
        "How much 1 of these would have been is not known and not counted."
        in report(kept, measured, unmeasured).verdict
    )
