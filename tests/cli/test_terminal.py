"""The progress bar of the command line."""

from __future__ import annotations

import io

import pytest

from lib_transfer.cli import terminal
from lib_transfer.cli.terminal import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_reading_shows_its_bytes_and_a_bar_and_goes_when_all_is_read() -> None:
    screen = Terminal()
    bar = Bar(screen)
    bar.reading("base.safetensors", 1_200_000_000, 2_400_000_000)
    assert screen.getvalue().endswith("[##########          ] Reading base.safetensors, 1.2 of 2.4 GB")
    bar.reading("base.safetensors", 2_400_000_000, 2_400_000_000)
    assert screen.getvalue().endswith("\r\x1b[K")


def test_where_there_is_no_terminal_nothing_is_drawn() -> None:
    stream = io.StringIO()
    Bar(stream).reading("base.safetensors", 1, 2)
    assert stream.getvalue() == ""


def test_where_there_is_no_terminal_a_long_job_tells_now_and_then_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    bar = Bar(stream)
    bar.start(2000, "style to other")
    for _ in range(1000):
        clock[0] += 0.7
        bar.step("imitation")
    lines = stream.getvalue().splitlines()
    assert lines == [
        " 21%  18 min left  429/2000  style to other  imitation",
        " 43%  13 min left  858/2000  style to other  imitation",
    ]
