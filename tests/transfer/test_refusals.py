"""What ``inspect``, ``transfer`` and ``batch`` say of a file that cannot be transferred to SDXL: a table written by hand.

The three must say the same of one file: what it is, what it is for, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import lib_transfer
from lib_transfer.errors import TransferError
from tests import tiny
from tests.architecture.test_identity import UNSUPPORTED
from tests.test_kinds import OTHER, sparse

Shapes = dict[str, tuple[int, ...]]


def _factors(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.lora_A.weight": (2, into), f"{name}.lora_B.weight": (out, 2)}


def _each(pattern: str, count: int, out: int, into: int) -> Shapes:
    return {key: shape for n in range(count) for key, shape in _factors(pattern.format(n), out, into).items()}


IN = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_"
SD1 = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
NEITHER = "neither a LoRA nor a checkpoint of an image model"

# Case -> the file, then what each says: the base of inspect (None: it refuses with the next text), the sentence of
# transfer, and that of a batch. {t} stands for the target's file, {f} for the path of the file.
CASES: dict[str, tuple[Shapes, str | None, str, str]] = {
    "hidream": (
        _each("diffusion_model.double_stream_blocks.{}.block.attn1.to_q", 16, 2560, 2560),
        "HiDream",
        "The adapter is for HiDream, which is not supported; {t} is Stable Diffusion XL.",
        "It is for HiDream, which is not supported; the target is Stable Diffusion XL.",
    ),
    "wan vace": (
        _each("transformer.vace_blocks.{}.self_attn.q", 3, 5120, 5120),
        "Wan VACE",
        "The adapter is for Wan VACE, which is not supported; {t} is Stable Diffusion XL.",
        "It is for Wan VACE, which is not supported; the target is Stable Diffusion XL.",
    ),
    "another family": (
        _factors(SD1, 320, 768),
        "Stable Diffusion 1.x",
        "The adapter is for Stable Diffusion 1.x, but {t} is Stable Diffusion XL: none of the adapter's modules is in it.",
        "It is for Stable Diffusion 1.x, the target is Stable Diffusion XL: their weights do not correspond.",
    ),
    "a typing error": (
        _factors(f"{IN}qq", 8, 8),
        "",
        f"The names of its modules are not known (first: {IN}qq); they come nearest to {IN}q of Stable Diffusion 1.x.",
        f"The names of its modules are not known (first: {IN}qq); they come nearest to {IN}q of Stable Diffusion 1.x.",
    ),
    "unheard-of names": (
        _factors("warp.core.7", 8, 8),
        "",
        "The names of its modules are not known (first: warp.core.7).",
        "The names of its modules are not known (first: warp.core.7).",
    ),
    "too large": (
        {**_factors(f"{IN}q", 4096, 4096), **_factors(f"{IN}k", 4096, 4096)},
        "",
        f"Its names are those of Stable Diffusion 1.x, but not its sizes: it changes 4096x4096 at {IN}k, where that has 640x640.",
        f"Its names are those of Stable Diffusion 1.x, but not its sizes: it changes 4096x4096 at {IN}k, where that has 640x640.",
    ),
    "a language model": (
        _factors("base_model.model.model.layers.0.self_attn.q_proj", 8, 8),
        None,
        f"{{f}} is an adapter of a language model, {NEITHER}.",
        "{f} is an adapter of a language model, not a LoRA of an image model. Choose a LoRA file.",
    ),
    "a controlnet": (
        {"control_model.input_hint_block.0.weight": (8, 3, 3, 3)},
        None,
        f"{{f}} is a ControlNet, {NEITHER}.",
        "{f} is a ControlNet, not a LoRA of an image model. Choose a LoRA file.",
    ),
    "a broken module alone": (
        {f"{IN}q.lora_up.weight": (8, 2)},
        "",
        f"Nothing of the adapter can be used. {IN}q: lora_up.weight without lora_down.weight.",
        f"Nothing of the adapter can be used. {IN}q: lora_up.weight without lora_down.weight.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_three_say_the_same(
    case: str, files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path, transfer: Callable[..., object]
) -> None:
    shapes, base, told, row = CASES[case]
    path = sparse(tmp_path / "case.safetensors", shapes)
    target = files["sdxl-target"]
    words = {"t": target.name, "f": str(path)}
    if base is None:
        with pytest.raises(TransferError) as refused:
            lib_transfer.inspect(path)
        assert refused.value.message == told.format(**words)
        told = row.removesuffix(" Choose a LoRA file.")
    else:
        facts = lib_transfer.inspect(path)
        assert facts["kind"] == "adapter" and facts["architecture"] == ([base] if base else [])
        assert facts["supported"] == (case == "another family")
    with pytest.raises(TransferError) as refused:
        transfer(path, "sdxl-target", "sdxl-target", method="reuse")
    assert refused.value.message == told.format(**words)
    report = lib_transfer.batch([tmp_path], target=target, method="reuse", runtime=runtime)
    [found] = report.rows()
    assert found["status"] in ("left out", "failed") and found["message"] == row.format(**words)
    assert not list(tmp_path.glob("out/*")) and [it.name for it in tmp_path.iterdir() if it.is_file()] == [
        "case.safetensors"
    ]


def test_a_folder_of_everything_else(
    files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path, transfer: Callable[..., object]
) -> None:
    """Every other kind of file, and a LoRA of every model that is not supported: a batch and a transfer say what it is."""
    told: dict[str, tuple[str, str]] = {}
    for number, (title, keys) in enumerate(OTHER.values()):
        path = sparse(tmp_path / f"other-{number:03}.safetensors", keys)
        sentence = f"{path} is {title}, not a LoRA of an image model."
        told[path.stem] = (sentence, f"{sentence} Choose a LoRA file.")
    for number, (title, shapes, said) in enumerate(UNSUPPORTED):
        # Rank 1 of the real sizes; metadata have tests of their own.
        keys = {key: shape for name, (out, into) in shapes.items() for key, shape in _rank_1(name, out, into).items()}
        if not said:
            path = sparse(tmp_path / f"lora-{number:03}.safetensors", keys)
            is_for = f"is for {title}, which is not supported; "
            told[path.stem] = (
                f"The adapter {is_for}sdxl-target.safetensors is Stable Diffusion XL.",
                f"It {is_for}the target is Stable Diffusion XL.",
            )
    rows = lib_transfer.batch([tmp_path], target=files["sdxl-target"], method="reuse", runtime=runtime).rows()
    assert {row["name"]: (row["status"], row["message"]) for row in rows} == {
        name: ("left out", sentence) for name, (_, sentence) in told.items()
    }
    for name, (sentence, _) in list(told.items())[::9]:  # The table above has each kind of sentence in full.
        with pytest.raises(TransferError) as refused:
            transfer(tmp_path / f"{name}.safetensors", "sdxl-source", "sdxl-target", method="reuse")
        assert refused.value.message == sentence


def _rank_1(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.lora_A.weight": (1, into), f"{name}.lora_B.weight": (out, 1)}
