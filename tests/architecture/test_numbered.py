"""The layers that cloneofsimo's numbers count, against diffusers' own class and the way the numbers were given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lib_transfer.architecture import modules, name_index, reference
from lib_transfer.formats.adapter_file import outline_adapter
from tests import tiny
from tests.architecture.known import known

# What the classes were called, and the order of a block's parts, when the files were written and later.
OLD, NEW = ("attn1", "ff", "attn2"), ("attn1", "attn2", "ff")


def _walk(
    module: nn.Module, path: str, order: tuple[str, ...], top: tuple[str, ...]
) -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    children = dict(module.named_children())
    names = order if type(module).__name__ == "BasicTransformerBlock" else top if not path else tuple(children)
    for name in names:
        yield from _walk(children[name], f"{path}.{name}" if path else name, order, top)


def _numbered(unet: nn.Module, order: tuple[str, ...], top: tuple[str, ...], *, residual: bool) -> list[str]:
    """The paths of the layers in the order of ``_find_modules_v2``: all within ancestors of some classes."""
    classes = {"Attention", "GEGLU", *(["ResnetBlock2D"] if residual else [])}
    kinds = (nn.Linear, nn.Conv2d) if residual else (nn.Linear,)
    ancestors = [(p, m) for p, m in _walk(unet, "", order, top) if type(m).__name__ in classes]
    return [
        f"{path}.{name}" for path, it in ancestors for name, layer in it.named_modules() if isinstance(layer, kinds)
    ]


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    diffusers: Any = pytest.importorskip("diffusers")
    with torch.device("meta"):
        made: nn.Module = diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    return made


@pytest.mark.parametrize(
    ("group", "order", "top", "residual", "count"),
    [
        ("unet", OLD, ("down_blocks", "up_blocks", "mid_block"), False, 144),
        ("unet with residual blocks", OLD, ("down_blocks", "up_blocks", "mid_block"), True, 224),
        ("unet, feed-forward last", NEW, ("down_blocks", "up_blocks", "mid_block"), False, 144),
        ("unet, middle in the middle", NEW, ("down_blocks", "mid_block", "up_blocks"), False, 144),
    ],
)
def test_numbers_count_the_layers_of_diffusers_unet(
    unet: nn.Module,
    tmp_path: Path,
    group: str,
    order: tuple[str, ...],
    top: tuple[str, ...],
    residual: bool,
    count: int,
) -> None:
    index = name_index(modules(known("sd1"), reference(known("sd1"))))
    paths = _numbered(unet, order, top, residual=residual)
    assert len(paths) == count and f"{group}:{count}" not in index
    for number, path in enumerate(paths):
        assert index[f"{group}:{number}"] == index[f"unet.{path}"], path
    # A file tells its order by its shapes; that residual blocks are counted, by its metadata.
    shapes = [tuple(unet.get_submodule(path).weight.shape) for path in paths]
    tensors = {
        f"unet:{number}:{end}": torch.zeros(shape)
        for number, (out, into, *kernel) in enumerate(shapes)
        for end, shape in (("up", (out, 1, *(1 for _ in kernel))), ("down", (1, into, *kernel)))
    }
    classes = '["CrossAttention", "Attention", "GEGLU"' + (', "ResnetBlock2D"]' if residual else "]")
    made = tiny.save(tmp_path / "a.safetensors", tensors, torch.float16, metadata={"unet": classes})
    assert set(outline_adapter(made).groups) == {f"{group}:{number}" for number in range(count)}


def test_numbers_count_the_attentions_of_the_text_encoder() -> None:
    """transformers' ``CLIPAttention`` holds its layers in the order k, v, q, out."""
    for name in ("sd1", "sd2"):
        index = name_index(modules(known(name), reference(known(name))))
        for number, leaf in enumerate(("k_proj", "v_proj", "q_proj", "out_proj")):
            full = f"lora_te_text_model_encoder_layers_2_self_attn_{leaf}"
            assert index[f"text_encoder:{8 + number}"] == index[full]
