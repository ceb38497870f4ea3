"""The progress bar of the command line."""

from __future__ import annotations

import io

from lib_transfer.cli.terminal import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_reading_shows_its_bytes_and_a_bar_and_goes_when_all_is_read() -> None:
    terminal = Terminal()
    bar = Bar(terminal)
    bar.reading("base.safetensors", 1_200_000_000, 2_400_000_000)
    assert terminal.getvalue().endswith("[##########          ] Reading base.safetensors, 1.2 of 2.4 GB")
    bar.reading("base.safetensors", 2_400_000_000, 2_400_000_000)
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_where_there_is_no_terminal_nothing_is_drawn() -> None:
    stream = io.StringIO()
    Bar(stream).reading("base.safetensors", 1, 2)
    assert stream.getvalue() == ""
