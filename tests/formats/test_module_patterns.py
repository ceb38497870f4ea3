"""Patterns of module names match what PEFT's own matcher says, and never take long."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_transfer.formats.module_patterns import NotUnderstoodError, matching

PIECES = st.sampled_from(
    ["a", "b", "1", "12", "attn", "to_q", "_", "-", r"\.", ".", ".*", ".+", r"\d", r"\d+", "|", "^", "$", "blocks"]
)
PATTERNS = st.lists(PIECES, max_size=6).map("".join)
NAMES = st.lists(st.sampled_from(["a", "b", "1", "12", "attn", "to_q", "blocks", "_", "-"]), min_size=1, max_size=5)
PATHS = st.lists(NAMES.map("".join), min_size=1, max_size=4).map(".".join)


@settings(max_examples=1500)
@given(patterns=st.lists(PATTERNS, max_size=3), path=PATHS)
def test_it_is_what_peft_matches(patterns: list[str], path: str) -> None:
    other = pytest.importorskip("peft.utils.other")
    found = other.get_pattern_key(patterns, path)
    assert matching(patterns, path) == (found if found in patterns else None)


@pytest.mark.parametrize("pattern", ["(a+)+b", "a{2}", "[ab]", "a*", "a?", r"\w+", "(?i)a", "a" * 600])
def test_what_is_not_understood_is_said(pattern: str) -> None:
    with pytest.raises(NotUnderstoodError, match="not understood"):
        matching([pattern], "blocks.0.to_q")


def test_a_pattern_made_to_never_end_ends() -> None:
    assert matching([".*" * 200 + "b"], "a." * 250 + "a") is None
