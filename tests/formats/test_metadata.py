"""The output names the target, keeps the rest of the parent, and no text of a stranger can break it."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from lib_transfer.formats.metadata import BaseFacts, ParentFacts, clean_metadata, derived_metadata, source_hints
from lib_transfer.formats.serialise import serialise

BASE = BaseFacts(
    name="target.safetensors",
    sha256="ab" * 32,
    legacy_hash="01234567",
    base_model_version="sdxl_base_v1-0",
    v2=False,
    architecture="stable-diffusion-xl-v1-base/lora",
    implementation="https://github.com/Stability-AI/generative-models",
)
PARENT = {
    "ss_output_name": "parent",
    "ss_sd_model_name": "source.safetensors",
    "ss_sd_model_hash": "ffffffff",
    "ss_new_sd_model_hash": "f" * 64,
    "ss_base_model_version": "sd_v1",
    "ss_base_model": "sd_1.5",
    "ss_v2": "True",
    "ss_network_module": "lycoris.kohya",
    "ss_network_dim": "64",
    "ss_network_alpha": "32",
    "ss_network_args": '{"algo": "loha", "conv_dim": "8"}',
    "ss_tag_frequency": '{"10_cat": {"cat": 3}}',
    "ss_training_comment": "mine",
    "sshs_model_hash": "e3b0",
    "sshs_legacy_hash": "e3b0c442",
    "modelspec.sai_model_spec": "1.0.1",
    "modelspec.architecture": "stable-diffusion-v1/lora",
    "modelspec.title": "Parent",
    "modelspec.hash_sha256": "0xdead",
    "modelspec.author": "someone",
    "modelspec.date": "2024-01-01T00:00:00",
    "anything": "else",
}


def derive(
    parent: dict[str, str], ranks: tuple[int, ...] = (8, 8), conv: tuple[int, ...] = (), base: BaseFacts = BASE
) -> dict[str, str]:
    return derived_metadata(
        parent,
        stem="child",
        base=base,
        made_from=ParentFacts("parent.safetensors", "cd" * 32),
        ranks=ranks,
        conv_ranks=conv,
        request_json='{"method":"rotation"}',
        report_json="{}",
        version="0.1.0",
    )


def test_the_whole_result() -> None:
    assert derive(PARENT) == {
        "ss_output_name": "child",
        "ss_sd_model_name": "target.safetensors",
        "ss_sd_model_hash": "01234567",
        "ss_new_sd_model_hash": "ab" * 32,
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_v2": "False",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "8",
        "ss_network_alpha": "8",
        "ss_tag_frequency": '{"10_cat": {"cat": 3}}',
        "ss_training_comment": "mine",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": "child",
        "modelspec.author": "someone",
        "modelspec.date": "2024-01-01T00:00:00",
        "anything": "else",
        "transfer_lora.version": "0.1.0",
        "transfer_lora.request": '{"method":"rotation"}',
        "transfer_lora.report": "{}",
        "transfer_lora.parent_name": "parent.safetensors",
        "transfer_lora.parent_sha256": "cd" * 32,
        "transfer_lora.parent_sshs_model_hash": "e3b0",
    }


def test_ranks() -> None:
    assert derive(PARENT, (4, 8))["ss_network_dim"] == derive(PARENT, (4, 8))["ss_network_alpha"] == "Dynamic"
    conv = derive(PARENT, (8,), (4, 4))
    assert json.loads(conv["ss_network_args"]) == {"conv_dim": "4", "conv_alpha": "4"}
    assert derive(PARENT, (), (4,))["ss_network_dim"] == "4"
    assert json.loads(derive(PARENT, (8,), (4, 2))["ss_network_args"])["conv_dim"] == "Dynamic"
    assert "ss_network_dim" not in derive(PARENT, ())


def test_what_is_unknown_of_the_target_is_left_out_rather_than_left_wrong() -> None:
    unknown = BaseFacts("t.safetensors", None, None, None, True, None, None)
    derived = derive(PARENT, base=unknown)
    gone = {"ss_sd_model_hash", "ss_new_sd_model_hash", "ss_base_model_version", "modelspec.architecture"}
    assert not gone & derived.keys()
    assert derived["ss_v2"] == "True"


def a1111_version(metadata: dict[str, str]) -> str:
    """Re-stated from A1111 1.9.4."""
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    return "SD2" if metadata.get("ss_v2") == "True" else "SD1" if metadata else "Unknown"


def forge_version(metadata: dict[str, str]) -> str:
    """Re-stated from Forge."""
    if metadata.get("modelspec.architecture") == "stable-diffusion-xl-v1-base/lora":
        return "SDXL"
    return "other"


def test_both_hosts_show_the_card_under_the_target() -> None:
    assert a1111_version(PARENT) == "SD2"
    assert a1111_version(derive(PARENT)) == forge_version(derive(PARENT)) == "SDXL"
    assert a1111_version(derive({})) == forge_version(derive({})) == "SDXL"


def test_what_running_the_models_said_of_the_parent_is_not_said_of_the_child() -> None:
    child = derive({**PARENT, "transfer_lora.match": "{}", "transfer_lora.other": "kept"})
    assert "transfer_lora.match" not in child
    assert child["transfer_lora.other"] == "kept"


def test_a_chain_finds_its_source() -> None:
    hints = source_hints(derive(PARENT))
    assert (hints.name, hints.legacy_hash, hints.sha256) == ("target.safetensors", "01234567", "ab" * 32)
    assert (hints.base_version, hints.architecture) == ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora")


def test_hints_of_many_tools() -> None:
    nothing = source_hints({})
    assert (nothing.name, nothing.legacy_hash, nothing.sha256, nothing.base_version) == (None,) * 4
    assert nothing.trigger_words == ()
    none = source_hints({"ss_sd_model_name": "None", "ss_sd_model_hash": "None", "ss_new_sd_model_hash": "xyz"})
    assert (none.name, none.legacy_hash, none.sha256) == (None, None, None)
    assert source_hints({"ss_sd_model_name": "C:\\models\\a.ckpt"}).name == "a.ckpt"
    assert source_hints({"ss_sd_model_name": "stabilityai/sdxl"}).name == "sdxl"
    assert source_hints({"ss_sd_model_name": "folder/"}).name is None
    assert source_hints({"ss_new_sd_model_hash": "0xABCDEF0123"}).sha256 == "abcdef0123"
    assert source_hints({"ss_base_model": "sdxl_1.0"}).base_version == "sdxl_1.0"
    assert source_hints({"modelspec.trigger_phrase": " a cat, in a hat ,"}).trigger_words == ("a cat", "in a hat")


def test_what_cannot_be_kept_is_dropped_with_a_note() -> None:
    bad = {"ss_tag_frequency": "not json", "\ud800": "x", "k": "\udfff", "n": 3, "fine": "<b>"}
    kept, notes = clean_metadata(bad)  # type: ignore[arg-type]
    assert kept == {"fine": "<b>"}
    assert len(notes) == 4
    for tags in ("[1]", "3", "[" * 100_000, "9" * 5000, ""):
        kept, notes = clean_metadata({"ss_tag_frequency": tags})
        assert not kept
        assert len(notes) == 1


@settings(max_examples=200)
@given(parent=st.dictionaries(st.sampled_from(sorted(PARENT)) | st.text(), st.text()), odd=st.text())
def test_any_text_can_be_stored(parent: dict[str, str], odd: str) -> None:
    base = BaseFacts(odd + "\ud800", None, None, None, False, None, None)
    derived = derive(parent, base=base)
    assert serialise({}, derived).header
    source_hints(parent)
