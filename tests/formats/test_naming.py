"""Any text becomes a name that every system takes and that stays in its folder."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_transfer.errors import RequestError
from lib_transfer.formats.naming import MAX_BYTES, TOKENS, fill_template, safe_stem, unique_stem

NAMES = {
    "plain": ("my lora_v1.2", "my lora_v1.2"),
    "composed": ("e\u0301", "é"),
    "path": ("../../etc/passwd", "etcpasswd"),
    "absolute": ("/etc/passwd", "etcpasswd"),
    "Windows path": ("C:\\a\\b", "Cab"),
    "UNC": ("\\\\host\\share", "hostshare"),
    "stream": ("x:y", "xy"),
    "home": ("~", "~"),
    "NUL and newline": ("a\0b\nc\td\x7f", "abcd"),
    "hidden": ("..hidden", "hidden"),
    "trailing": ("name. . ", "name"),
    "device": ("CON", "CON_"),
    "device with an ending": ("nul.x", "nul_.x"),
    "device in the middle": ("my con", "my con"),
    "like a device": ("console", "console"),
    "device 9": ("Com9", "Com9_"),
    "quotes": ("q'uo\"te", "q'uote"),
    "HTML": ("<img src=x onerror=alert(1)>", "img src=x onerror=alert(1)"),
    "other direction": ("a\u202egnp.exe", "agnp.exe"),
    "emoji family": ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
    "lone surrogate": ("a\ud800b", "ab"),
    "nothing": ("", "lora"),
    "only dots": ("...", "lora"),
    "only forbidden": ("\\/:*?", "lora"),
}


@pytest.mark.parametrize(("text", "stem"), NAMES.values(), ids=NAMES.keys())
def test_names(text: str, stem: str) -> None:
    assert safe_stem(text) == stem


def check_stem(stem: str, folder: Path) -> None:
    assert 0 < len(stem.encode()) <= MAX_BYTES
    assert stem == unicodedata.normalize("NFC", stem)
    assert not set(stem) & set('<>:"/\\|?*\0')
    assert stem[0] not in ". "
    assert stem[-1] not in ". "
    assert all(unicodedata.category(sign) not in {"Cc", "Cs"} for sign in stem)
    path = folder / f"{stem}.safetensors"
    assert os.path.realpath(path.parent) == os.path.realpath(folder)
    assert path.name == f"{stem}.safetensors"
    path.write_bytes(b"")
    path.unlink()


FUZZ = settings(max_examples=300)
TEXT = st.text(max_size=150) | st.text(alphabet="./\\ ~:con\0e\u0301汉😀", max_size=200)


@FUZZ
@given(text=TEXT)
def test_any_text(text: str, tmp_path: Path) -> None:
    stem = safe_stem(text)
    check_stem(stem, tmp_path)
    assert safe_stem(stem) == stem


@FUZZ
@given(lora=TEXT, target=TEXT, template=st.text(max_size=30) | st.just("{lora}_{target}_{method}_{hash8}"))
def test_any_template(lora: str, target: str, template: str, tmp_path: Path) -> None:
    try:
        stem = fill_template(template, lora=lora, target=target, method="rotation", hash8="0123abcd")
    except RequestError:
        return
    check_stem(stem, tmp_path)
    if "{hash8}" in template.replace("{{", ""):
        assert "0123abcd" in stem


def test_a_long_name_is_cut_and_the_hash_is_not() -> None:
    stem = fill_template(
        "{lora}_{target}_{method}_{hash8}", lora="汉" * 200, target="t" * 100, method="rotation", hash8="0123abcd"
    )
    assert stem.endswith("_rotation_0123abcd")
    assert MAX_BYTES - 3 < len(stem.encode()) <= MAX_BYTES
    assert stem.startswith("汉")
    assert "tttt" in stem


@pytest.mark.parametrize(
    "template",
    [
        "{nothing}",
        "{lora",
        "lora}",
        "{}",
        "{0}",
        "{lora!r}",
        "{lora:>9}",
        "{lora.x}",
        "{lora[0]}",
        "a/b",
        "..\\{lora}",
        "a\0",
        "x" * 121,
    ],
)
def test_a_bad_template_is_refused(template: str) -> None:
    with pytest.raises(RequestError, match="template"):
        fill_template(template, **dict.fromkeys(TOKENS, "x"))


def test_every_token_and_escaped_braces() -> None:
    template = "{lora}-{source}-{target}-{method}-{rank}-{hash8}-{{}}"
    assert fill_template(template, **{token: token for token in TOKENS}) == "lora-source-target-method-rank-hash8-{}"
    assert fill_template("{lora}{rank}", lora="a/../b") == "a..b"


def test_the_first_free_number() -> None:
    assert unique_stem("Name", {"other"}) == "Name"
    assert unique_stem("Name", {"name", "name_2"}) == "Name_3"
    full = "汉" * 40
    assert unique_stem(full, {full}) == "汉" * 39 + "_2"
