"""Prompts as tokens, against the tokenizers of open_clip and of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_transfer.errors import BadFileError
from lib_transfer.evaluation.loading import tokens
from tests.evaluation import pipelines

pytest.importorskip("transformers", reason="the tools are not in this environment")

PROMPTS = (
    "", "a red house", "word " * 200, "Ünïcode CAFÉ naïve Straße", "日本語のプロンプト, 1girl 한국어", "Привет, мир! ١٢٣ ½",
    "emoji 😀👩‍👩‍👧 🇩🇪", "don't they'RE 's't'RE ''", "a_b-c (x:1.2) [y] <lora:z:1> {w}", "e\u0301 \u200bzero\u200d",
    "tab\tnew\nline\u00a0nbsp\u3000wide", "a" * 400,
)  # fmt: skip
MENDED = ("“curly” ’quotes’", "ＦＵＬＬ ﬁ", "Ã©", "&amp; &lt;b&gt; &amp;amp;")


@pytest.fixture(scope="module")
def open_clip() -> Any:
    return pipelines.open_clip()


@pytest.fixture(scope="module")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return pipelines.tokenizer(tmp_path_factory.mktemp("tokenizer"), "<|endoftext|>")


def wanted(words: list[int], filler: int) -> list[int]:
    kept = [49406, *words[:75], 49407]
    return kept + [filler] * (77 - len(kept))


def test_the_tokens_are_those_of_open_clip_and_transformers(open_clip: Any, transformers: Any) -> None:
    for prompt in PROMPTS:
        assert tokens.tokens(prompt, 7) == wanted(open_clip.encode(prompt), 7)
        theirs = transformers(prompt, padding="max_length", max_length=77, truncation=True)["input_ids"]
        assert tokens.tokens(prompt, tokens.END) == theirs, prompt
    for prompt in MENDED:
        assert tokens.tokens(prompt, 7) == wanted(open_clip.encode(prompt), 7)


# What is no character yet in Python's Unicode may be a letter to one of the two, and not to the other.
@given(text=st.text(st.characters(exclude_categories=("Cn", "Cs")), max_size=30))
def test_any_text_has_the_tokens_of_open_clip(open_clip: Any, text: str) -> None:
    # These words of theirs have a token of their own there, which the models never saw.
    if "_of_text>" not in text:
        assert tokens.tokens(text, 0) == wanted(open_clip.encode(text), 0)


def test_a_damaged_vocabulary_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "vocabulary.gz"
    for content in (b"", b"no archive", b"\x1f\x8b\x08\x00"):
        file.write_bytes(content)
        monkeypatch.setattr(tokens, "vocabulary", lambda: file)
        with pytest.raises(BadFileError, match="is not CLIP's vocabulary"):
            tokens._merges()
