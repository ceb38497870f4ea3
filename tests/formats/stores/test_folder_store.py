"""Diffusers folders, whole and sharded, as diffusers and transformers write them; and those that lie."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lib_transfer.errors import BadFileError
from lib_transfer.formats.adapter_file import read_adapter
from lib_transfer.formats.checkpoint import checkpoint_files, checkpoint_stamps, model_name, open_checkpoint
from lib_transfer.storage.hashes import Hashes

from ..builders import random, save

WEIGHT = "diffusion_pytorch_model"


def number(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2, 2), value)}


def folder_of(root: Path, files: dict[str, object]) -> Path:
    """A folder in which each file holds one number, tensors or, for JSON, an object."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            path.write_text(json.dumps(content))
        elif path.suffix == ".bin":
            torch.save(number(content) if isinstance(content, int) else content, path)
        else:
            save(path, number(content) if isinstance(content, int) else content)  # type: ignore[arg-type]
    return root


def index(**shards: str) -> dict[str, object]:
    return {"metadata": {"total_size": 1}, "weight_map": shards}


SHARDED = {
    "unet/config.json": {},
    f"unet/{WEIGHT}.safetensors.index.json": index(a="x-00001-of-00002.safetensors", b="x-00002-of-00002.safetensors"),
    "unet/x-00001-of-00002.safetensors": {"a": random(3, 2, seed=1)},
    "unet/x-00002-of-00002.safetensors": {"b": random(4, seed=2)},
}


@pytest.mark.parametrize("limit", ["10GB", "60KB"])
@pytest.mark.parametrize("safe", [True, False])
def test_what_diffusers_and_transformers_write_is_read(limit: str, safe: bool, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in one environment only")
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=8, cross_attention_dim=16, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    config = CLIPTextConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, vocab_size=900)
    text = CLIPTextModel(config)
    unet.save_pretrained(tmp_path / "unet", max_shard_size=limit, safe_serialization=safe)
    text.save_pretrained(tmp_path / "text_encoder", max_shard_size=limit)
    diffusers.EulerDiscreteScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text("{}")
    expected = {f"unet.{key}": value for key, value in unet.state_dict().items()}
    expected |= {f"text_encoder.{key}": value for key, value in text.state_dict().items()}
    shards = [path for path in checkpoint_files(tmp_path) if path.suffix in (".safetensors", ".bin")]
    assert (len(shards) > 4) == (limit == "60KB")
    with open_checkpoint(tmp_path) as file:
        assert file.shapes == {key: tuple(value.shape) for key, value in expected.items()}
        assert all(torch.equal(file.read(key), value) for key, value in expected.items())
        assert file.metadata == {"scheduler.prediction_type": "v_prediction"}
        assert file.stamps == checkpoint_stamps(tmp_path)
    with open_checkpoint(tmp_path / "unet") as file:
        assert set(file.shapes) == {key for key in expected if key.startswith("unet.")}


ORDER = [
    f"{WEIGHT}.safetensors",
    f"{WEIGHT}.bin",
    f"{WEIGHT}.bf16.safetensors",
    f"{WEIGHT}.bf16.bin",
    f"{WEIGHT}.fp16.safetensors",
    f"{WEIGHT}.non_ema.safetensors",
]
UNWANTED = {
    "openvino_model.bin": 90,
    "optimizer.bin": 91,
    "model.onnx": 92,
    "flax_model.msgpack": 93,
    "my.safetensors": 94,
}


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_full_precision_goes_before_variants_and_safetensors_before_pytorch(first: int, tmp_path: Path) -> None:
    files: dict[str, object] = {f"unet/{name}": place for place, name in enumerate(ORDER) if place >= first}
    folder_of(tmp_path, files)
    for name in UNWANTED:
        (tmp_path / "unet" / name).write_bytes(b"nothing of ours")
    with open_checkpoint(tmp_path) as file:
        assert file.read("unet.w")[0, 0] == first
    assert [path.name for path in checkpoint_files(tmp_path)] == [ORDER[first]]


def test_one_file_goes_before_shards_and_shards_before_a_variant(tmp_path: Path) -> None:
    shard = {
        "unet/s-00001-of-00001.safetensors": 1,
        f"unet/{WEIGHT}.safetensors.index.json": index(w="s-00001-of-00001.safetensors"),
    }
    folder_of(tmp_path, {**shard, f"unet/{WEIGHT}.fp16.safetensors": 2})
    with open_checkpoint(tmp_path) as file:
        assert file.read("unet.w")[0, 0] == 1
    folder_of(tmp_path, {f"unet/{WEIGHT}.safetensors": 3})
    with open_checkpoint(tmp_path) as file:
        assert file.read("unet.w")[0, 0] == 3


@pytest.mark.parametrize("name", [f"{WEIGHT}.safetensors.index.fp16.json", f"{WEIGHT}.fp16.safetensors.index.json"])
def test_an_index_of_a_variant(name: str, tmp_path: Path) -> None:
    shard = f"{WEIGHT}.fp16-00001-of-00001.safetensors"
    folder_of(tmp_path, {f"transformer/{shard}": 5, f"transformer/{name}": index(w=shard)})
    with open_checkpoint(tmp_path) as file:
        assert file.read("transformer.w")[0, 0] == 5


def test_shards_of_pytorch(tmp_path: Path) -> None:
    names = {f"m-0000{n}-of-00002.bin" for n in (1, 2)}
    shards = {f"text_encoder_2/{name}": {f"k{name[6]}": random(2, 3, seed=int(name[6]))} for name in names}
    folder_of(
        tmp_path, {**shards, "text_encoder_2/pytorch_model.bin.index.json": index(**{f"k{n[6]}": n for n in names})}
    )
    with open_checkpoint(tmp_path) as file:
        assert set(file.shapes) == {"text_encoder_2.k1", "text_encoder_2.k2"}
        assert torch.equal(file.read("text_encoder_2.k2", (1, 2)), random(2, 3, seed=2)[1:])


@pytest.mark.parametrize(
    ("name", "config", "prefix"),
    [
        ("unet", {}, "unet."),
        ("text_encoder_3", {}, "text_encoder_3."),
        ("my-unet", {"_class_name": "UNet2DConditionModel"}, "unet."),
        ("flux", {"_class_name": "FluxTransformer2DModel"}, "transformer."),
        ("clip", {"architectures": ["CLIPTextModel"]}, ""),
        ("broken", [1], ""),
    ],
)
def test_a_model_that_stands_alone_has_the_prefix_of_what_it_is(
    name: str, config: object, prefix: str, tmp_path: Path
) -> None:
    path = folder_of(tmp_path / name, {"any name.safetensors": 1, "config.json": config})
    with open_checkpoint(path) as file:
        assert set(file.shapes) == {f"{prefix}w"}


def test_scaled_float8_in_a_folder(tmp_path: Path) -> None:
    codes = random(4, 4).to(torch.float8_e4m3fn)
    tensors = {"a.weight": codes, "a.scale_weight": torch.tensor(0.5)}
    with open_checkpoint(folder_of(tmp_path, {f"transformer/{WEIGHT}.safetensors": tensors})) as file:
        assert set(file.shapes) == {"transformer.a.weight"}
        assert torch.equal(file.read("transformer.a.weight"), codes.float() / 2)


def without(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def with_index(content: object) -> Callable[[Path], object]:
    path = f"unet/{WEIGHT}.safetensors.index.json"
    return lambda root: (root / path).write_text(content if isinstance(content, str) else json.dumps(content))


SHARD = "x-00001-of-00002.safetensors"
BROKEN: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a missing shard": (without("unet/x-00002-of-00002.safetensors"), "missing", r"x-00002-of-00002\.safetensors"),
    "a missing index": (without(f"unet/{WEIGHT}.safetensors.index.json"), "missing", "without the index"),
    "an index that is no JSON": (with_index("{"), "index", "no index"),
    "an index that is a list": (with_index([1]), "index", "no index"),
    "an index without a map": (with_index({"weight_map": 1}), "index", "no index"),
    "an empty index": (with_index(index()), "index", "no index"),
    "an index nested deeply": (with_index('{"weight_map":' * 50_000), "index", "no index"),
    "a shard above": (with_index(index(a="../secret.safetensors")), "index", "secret"),
    "a shard anywhere": (with_index(index(a="/etc/passwd")), "index", "passwd"),
    "a shard on a drive": (with_index(index(a="C:x.safetensors")), "index", "C:x"),
    "a shard with a backslash": (with_index(index(a="..\\x.safetensors")), "index", "x.safetensors"),
    "a shard below": (with_index(index(a="sub/x.safetensors")), "index", "sub/x"),
    "a shard that is the folder above": (with_index(index(a="..")), "index", "'..'"),
    "a shard that is a number": (with_index({"weight_map": {"a": 7}}), "index", "'7'"),
    "a shard that is a control character": (with_index(index(a="x\0")), "index", "x"),
    "a thousand and one shards": (
        with_index(index(**{str(n): f"{n}.safetensors" for n in range(1001)})),
        "index",
        "1000",
    ),
    "a shard that is a folder": (
        lambda root: (root / "unet" / SHARD).unlink() or (root / "unet" / SHARD).mkdir(),
        "not_a_file",
        SHARD,
    ),
    "a shard that is a dangling link": (
        lambda root: (root / "unet" / SHARD).unlink() or (root / "unet" / SHARD).symlink_to(root / "nowhere"),
        "missing",
        SHARD,
    ),
    "a shard that is cut off": (lambda root: os.truncate(root / "unet" / SHARD, 90), "truncated", SHARD),
    "a tensor that is in no shard": (
        with_index(index(a=SHARD, b=SHARD)),
        "layout",
        r"x-00001-of-00002\.safetensors holds no tensor b",
    ),
    "a configuration without weights": (
        lambda root: folder_of(root, {"text_encoder/config.json": {}}),
        "missing",
        "text_encoder has no weights",
    ),
    "two files of unknown names": (
        lambda root: folder_of(
            root, {"transformer/config.json": {}, "transformer/a.safetensors": 1, "transformer/b.safetensors": 2}
        ),
        "missing",
        "2 safetensors files",
    ),
}


@pytest.mark.parametrize(("damage", "reason", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_folder_that_is_not_whole_is_refused(
    damage: Callable[[Path], object], reason: str, words: str, tmp_path: Path
) -> None:
    save(tmp_path / "secret.safetensors", {"a": random(2)})
    root = folder_of(tmp_path / "model", SHARDED)
    damage(root)
    with pytest.raises(BadFileError, match=words) as caught:
        open_checkpoint(root)
    assert caught.value.reason == reason


def test_a_folder_without_a_model_is_told_so(tmp_path: Path) -> None:
    for files in ({}, {"model_index.json": {}}, {"model_index.json": {}, "vae/config.json": {}}, {"a.safetensors": 1}):
        root = folder_of(tmp_path / str(len(list(tmp_path.iterdir()))), files)
        root.mkdir(exist_ok=True)
        for ask in (open_checkpoint, checkpoint_stamps, read_adapter):
            with pytest.raises(BadFileError, match="unet, transformer") as caught:
                ask(root)  # type: ignore[operator]
            assert caught.value.reason == "no_model"


def test_links_into_a_cache_are_followed(tmp_path: Path) -> None:
    """As the Hugging Face Hub lays its cache out."""
    save(tmp_path / "blobs" / "1234", number(7)) if (tmp_path / "blobs").mkdir() is None else None
    snapshot = tmp_path / "snapshots" / "abcd"
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / "unet" / f"{WEIGHT}.safetensors").symlink_to("../../../blobs/1234")
    with open_checkpoint(snapshot) as file:
        assert file.read("unet.w")[0, 0] == 7


# ---- identity ----


def test_the_hash_is_of_the_files_that_count(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path / "sdxl-v1.0", {**SHARDED, "scheduler/scheduler_config.json": {"prediction_type": "epsilon"}}
    )
    names = sorted([*(name for name in SHARDED if "config" not in name), "scheduler/scheduler_config.json"])
    printed = "".join(f"{hashlib.sha256((root / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    hashes = Hashes(tmp_path / "memory")
    assert hashes.recalled(root) is None
    digest = hashes.sha256(root)
    assert digest == hashlib.sha256(printed.encode()).hexdigest()
    assert hashes.recalled(root) == digest
    folder_of(
        root, {"vae/diffusion_pytorch_model.safetensors": 1, "README.json": {}, f"unet/{WEIGHT}.fp16.safetensors": 1}
    )
    assert hashes.sha256(root) == digest
    assert model_name(root) == "sdxl-v1.0"
    (root / "unet" / "x-00002-of-00002.safetensors").unlink()
    save(root / "unet" / "x-00002-of-00002.safetensors", {"b": random(4, seed=3)})
    assert hashes.recalled(root) is None
    assert hashes.sha256(root) != digest


def test_each_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(tmp_path / "model", SHARDED)
    hashes = Hashes(tmp_path / "memory")
    digest = hashes.sha256(root)
    monkeypatch.setattr("lib_transfer.storage.hashes.file_sha256", None)
    assert hashes.sha256(root) == digest
    (root / "unet" / SHARD).touch()
    with pytest.raises(TypeError):
        hashes.sha256(root)


def test_a_change_of_any_file_that_counts_is_noticed(tmp_path: Path) -> None:
    for change in (
        lambda root: (root / "unet" / SHARD).touch(),
        lambda root: folder_of(root, {f"unet/{WEIGHT}.safetensors": 1}),
        lambda root: (root / "unet" / f"{WEIGHT}.safetensors.index.json").touch(),
        lambda root: folder_of(root, {"text_encoder/model.safetensors": 1}),
        lambda root: folder_of(root, {"scheduler/scheduler_config.json": {}}),
    ):
        root = folder_of(tmp_path / str(len(list(tmp_path.iterdir()))), SHARDED)
        before = checkpoint_stamps(root)
        with open_checkpoint(root) as file:
            assert file.stamps == before
            change(root)
            assert checkpoint_stamps(root) != before
    with open_checkpoint(folder_of(tmp_path / "last", SHARDED)) as file:
        (tmp_path / "last" / "unet" / SHARD).touch()
        with pytest.raises(BadFileError) as caught:
            file.need_unchanged()
        assert caught.value.reason == "changed"
