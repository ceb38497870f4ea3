"""An output against both hosts: the twelve contracts of reference/ux.md section 4, one by one, and the rest of DESIGN 4.

The hosts are restated in :mod:`tests.transfer.hosts`; hashes and headers are computed here.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lib_transfer
from lib_transfer.architecture import modules, reference
from lib_transfer.conversion import partly_loaded
from tests import tiny
from tests.transfer import hosts

NAMES = ("sd1", "sdxl")
BOTH = pytest.mark.parametrize("name", NAMES)
TAGS = json.dumps({"10_cat": {"a cat": 10, "sitting": 3}})
PARENT = {
    "ss_output_name": "style",
    "sshs_model_hash": hashlib.sha256(b"").hexdigest(),  # what one trainer really wrote
    "sshs_legacy_hash": "00000000",
    "ss_tag_frequency": TAGS,
    "modelspec.trigger_phrase": "my style, my cat",
    "modelspec.hash_sha256": "0xdead",
    "ss_sd_model_name": "parent-base.safetensors",
    "ss_learning_rate": "0.0001",
    "ss_base_model_version": "sd_v2",
    "ss_v2": "True",
}


def _everything(name: str) -> tiny.Weights:
    """A LoRA over every third module that has a name at all, with a full difference, a bias and a norm of the UNet."""
    architecture = tiny.architecture(name)
    found = [m for m in modules(architecture, reference(architecture, width=8)) if m.kind != "embedding"]
    made: tiny.Weights = {}
    for number, module in enumerate(m for m in found if m.kind != "norm"):
        if number % 3 == 0 and module.names:
            made |= tiny.factors(module.names[0].text, module.shape, seed=number)
    norms = [m for m in found if m.kind == "norm"]
    for module in (norms[0], norms[-1]):
        made[f"{module.names[0].text}.w_norm"] = torch.full(module.shape, 0.25)
    bias = next(m for m in found if m.position.part == "unet" and m.bias and m.names[0].text + ".alpha" not in made)
    made[f"{bias.names[0].text}.diff_b"] = torch.full(bias.shape[:1], 0.5)
    return made


@pytest.fixture(scope="module")
def outputs(
    files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, lib_transfer.TransferResult, hosts.LoraFile]]:
    """One transfer to the fine-tune and one to the pruned relative per architecture, from a LoRA with old metadata."""
    made = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        path = tiny.save(folder / "style.safetensors", _everything(name), torch.float16, PARENT)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        for end in ("target", "pruned"):
            request = lib_transfer.request(
                path, source=files[f"{name}-source"], target=files[f"{name}-{end}"], energy=0.9, runtime=runtime
            )
            result = lib_transfer.transfer(request, runtime=runtime)
            assert result.path is not None
            made[f"{name}-{end}"] = (path, result, hosts.read(result.path))
    return made


Outputs = dict[str, tuple[Path, lib_transfer.TransferResult, hosts.LoraFile]]


@BOTH
def test_1_and_2_both_hosts_show_it_under_the_right_version(name: str, outputs: Outputs) -> None:
    metadata = outputs[f"{name}-target"][2].metadata
    assert hosts.a1111_version(metadata) == hosts.forge_version(metadata) == name.upper()
    assert metadata["ss_v2"] == "False"
    assert metadata["modelspec.sai_model_spec"]
    # The parent said it is for SD2: that is gone.
    assert hosts.a1111_version(PARENT) == "SD2"


@BOTH
def test_3_and_4_its_name_is_its_own(name: str, outputs: Outputs) -> None:
    parent, result, out = outputs[f"{name}-target"]
    assert out.metadata["ss_output_name"] == out.metadata["modelspec.title"] == out.path.stem
    assert out.path.stem != parent.stem
    assert out.path.stem.startswith(f"style_{name}-target_rotation_")
    assert result.status == "written"


def test_4_never_the_adapters_own_name_even_elsewhere(
    files: tiny.Files, runtime: lib_transfer.Runtime, outputs: Outputs, tmp_path: Path
) -> None:
    request = lib_transfer.request(
        outputs["sd1-target"][0], target=files["sd1-target"], method="reuse", runtime=runtime
    )
    for wanted in (
        lib_transfer.Destination(folder=tmp_path, template="{lora}"),
        lib_transfer.Destination(file=tmp_path / "STYLE.safetensors"),
    ):
        with pytest.raises(lib_transfer.TransferError) as caught:
            lib_transfer.transfer(request, wanted, runtime=runtime)
        assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


@BOTH
def test_5_hashes_are_of_its_own_bytes(name: str, outputs: Outputs) -> None:
    out = outputs[f"{name}-target"][2]
    assert out.metadata["sshs_model_hash"] == hashlib.sha256(out.data).hexdigest()
    only_kohya = {key: text for key, text in out.metadata.items() if key.startswith("ss_")}
    legacy = _kohya_legacy_hash(out.tensors, only_kohya)
    assert out.metadata["sshs_legacy_hash"] == legacy
    assert "modelspec.hash_sha256" not in out.metadata
    assert out.metadata["transfer_lora.parent_sshs_model_hash"] == PARENT["sshs_model_hash"]


def _kohya_legacy_hash(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """sd-scripts: 64 KiB from the second megabyte on, of the bytes that the library makes of tensors and ss_ entries."""
    import safetensors.torch

    raw = safetensors.torch.save(tensors, metadata)
    return hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8]


@BOTH
def test_6_its_time_is_now(name: str, outputs: Outputs) -> None:
    parent, _, out = outputs[f"{name}-target"]
    assert parent.stat().st_mtime == 1_000_000_000
    assert parent.stat().st_ctime - 2 < out.path.stat().st_mtime < time.time() + 2  # no file system is coarser than 2 s


@pytest.mark.parametrize("end", ["target", "pruned"])
@pytest.mark.parametrize("forge_host", [False, True], ids=["a1111", "forge"])
@BOTH
def test_7_and_9_no_tensor_is_unknown_and_every_shape_fits(
    name: str, forge_host: bool, end: str, outputs: Outputs, files: tiny.Files
) -> None:
    parent, result, out = outputs[f"{name}-{end}"]
    host = hosts.Host(files.tensors[f"{name}-{end}"], forge_host=forge_host)
    # Forge knows no norms of CLIP-L, which A1111 loads, and bears with a few; A1111 passes over the projection of SDXL's
    # second encoder, which Forge loads.
    norms = [key for module, group in out.names.items() if "_layer_norm" in module for key in group]
    projection = list(out.names.get("lora_te2_text_projection", ()))
    assert sorted(host.unknown(out)) == sorted(norms if forge_host else projection)
    assert not host.refuses(out)
    changed = host.load(out)
    assert len(changed) > 100
    assert result.report is not None
    if end == "pruned":
        # The parent's own file would be over Forge's limit or lose modules silently.
        assert len(host.unknown(hosts.read(parent))) > 12
        gone = [m for m in result.report.modules if m.decision == "no counterpart"]
        assert len(gone) > 3
        assert all(m.reason.startswith("the target has ") for m in gone)
        assert {m.name for m in gone}.isdisjoint(out.names)


def test_8_overwriting_takes_a_new_name_and_retires_the_old_file(
    files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    path = tiny.save(tmp_path / "style.safetensors", tiny.factors("lora_unet_conv_in", (8, 4, 3, 3)))
    plain = lib_transfer.Destination(folder=tmp_path, template="{lora}_{target}")
    again = lib_transfer.Destination(folder=tmp_path, template="{lora}_{target}", overwrite=True)

    def go(wanted: lib_transfer.Destination, strength: float) -> lib_transfer.TransferResult:
        request = lib_transfer.request(
            path, target=files["sd1-target"], method="reuse", strength=strength, runtime=runtime
        )
        return lib_transfer.transfer(request, wanted, runtime=runtime)

    first = go(plain, 1.0)
    assert first.path is not None
    with pytest.raises(FileExistsError, match="another request"):
        go(plain, 2.0)
    second = go(again, 2.0)
    assert second.path is not None
    assert second.path != first.path
    assert not first.path.exists()
    assert hosts.read(second.path).metadata["ss_output_name"] == second.path.stem
    assert go(again, 2.0).path is not None


def test_never_over_a_file_that_is_not_ours(files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path) -> None:
    path = tiny.save(tmp_path / "style.safetensors", tiny.factors("lora_unet_conv_in", (8, 4, 3, 3)))
    theirs = tiny.save(tmp_path / "theirs.safetensors", {"a": torch.ones(2)})
    kept = theirs.read_bytes()
    request = lib_transfer.request(path, target=files["sd1-target"], method="reuse", runtime=runtime)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="not made by Transfer LoRA"):
            lib_transfer.transfer(request, lib_transfer.Destination(file=theirs, overwrite=overwrite), runtime=runtime)
    assert theirs.read_bytes() == kept


def test_11_files_under_way_end_in_part(
    files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.save(tmp_path / "style.safetensors", tiny.factors("lora_unet_conv_in", (8, 4, 3, 3)))
    request = lib_transfer.request(path, target=files["sd1-target"], method="reuse", runtime=runtime)
    seen: list[str] = []
    real = os.fsync

    def watch(descriptor: int) -> None:
        seen.extend(p.name for p in tmp_path.iterdir())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.path is not None
    under_way = set(seen) - {"style.safetensors", result.path.name}
    assert under_way
    assert all(name.endswith(".part") and name.startswith(".") for name in under_way)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["style.safetensors", result.path.name])


def test_12_a_relative_like_ssd_1b_gets_the_rest(outputs: Outputs) -> None:
    _, result, out = outputs["sdxl-pruned"]
    lacking = tuple("lora_unet_" + part.replace(".", "_") for part in tiny.PRUNED["sdxl"])
    assert out.deltas()
    assert not [name for name in out.names if name.startswith(lacking)]
    assert "no counterpart" in result.report.verdict  # type: ignore[union-attr]


def test_an_openclip_attention_is_complete(outputs: Outputs, files: tiny.Files) -> None:
    """The parent has one or two of q, k, v, out of each layer; A1111 would skip the layer."""
    parent, _, out = outputs["sdxl-target"]
    given = set(hosts.read(parent).names)
    leaves = ("q", "k", "v", "out")
    layers = sorted({name.split("_layers_")[1].split("_")[0] for name in out.names if "lora_te2_text_model" in name})
    added = 0
    for layer in layers:
        names = [f"lora_te2_text_model_encoder_layers_{layer}_self_attn_{leaf}_proj" for leaf in leaves]
        there = [name for name in names if name in out.names]
        assert there in ([], names), layer
        for name in set(there) - given:
            group = out.names[name]
            assert group["lora_up.weight"].shape == (32, 1)
            assert group["lora_down.weight"].shape == (1, 32)
            assert hosts.delta(group).norm() == 0
            added += 1
    assert added > 10
    # And so A1111 applies as many of them as Forge, and the norms of CLIP-L, which Forge does not know.
    loaded = [set(hosts.Host(files.tensors["sdxl-target"], forge_host=f).load(out)) for f in (False, True)]
    projection = {"conditioner.embedders.1.model.text_projection"}
    assert {key for key in loaded[0] if ".layer_norm" not in key} == loaded[1] - projection


@BOTH
def test_alpha_is_the_rank_and_the_factors_are_balanced(name: str, outputs: Outputs) -> None:
    for module, group in outputs[f"{name}-target"][2].names.items():
        if "lora_up.weight" not in group:
            continue
        assert group["alpha"].shape == ()
        assert float(group["alpha"]) == group["lora_down.weight"].shape[0]
        up, down = (group[f"lora_{side}.weight"].double().flatten(1) for side in ("up", "down"))
        # Singular values split evenly: each factor's Gram matrix is the same diagonal matrix.
        left, right = up.T @ up, down @ down.T
        assert torch.allclose(left, right, atol=3e-3 * float(left.diagonal().max() + 1e-9)), module
        assert torch.allclose(left, torch.diag(left.diagonal()), atol=3e-3 * float(left.diagonal().max() + 1e-9)), (
            module
        )


@BOTH
def test_training_metadata_is_kept_and_the_base_is_the_target(name: str, outputs: Outputs, files: tiny.Files) -> None:
    parent, result, out = outputs[f"{name}-target"]
    for key in ("ss_tag_frequency", "modelspec.trigger_phrase", "ss_learning_rate"):
        assert out.metadata[key] == PARENT[key]
    target = files[f"{name}-target"]
    raw = target.read_bytes()
    assert out.metadata["ss_sd_model_name"] == target.name
    assert out.metadata["ss_new_sd_model_hash"] == hashlib.sha256(raw).hexdigest()
    assert out.metadata["ss_sd_model_hash"] == hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8]
    assert out.metadata["transfer_lora.parent_name"] == "style"
    assert out.metadata["transfer_lora.parent_sha256"] == hashlib.sha256(parent.read_bytes()).hexdigest()
    request = json.loads(out.metadata["transfer_lora.request"])
    assert request["method"] == "rotation"
    assert request["target"]["sha256"] == hashlib.sha256(raw).hexdigest()
    summary = json.loads(out.metadata["transfer_lora.report"])
    assert summary["modules"] == result.report.totals.modules  # type: ignore[union-attr]
    assert str(parent.parent) not in json.dumps(out.metadata)  # no path of this machine
    assert out.metadata["ss_network_dim"] == out.metadata["ss_network_alpha"] == "3"


def test_a_chain_finds_its_new_source(files: tiny.Files, runtime: lib_transfer.Runtime, outputs: Outputs) -> None:
    _, first, out = outputs["sd1-target"]
    assert first.path is not None
    assert out.metadata["ss_sd_model_name"] == files["sd1-target"].name
    request = lib_transfer.request(
        first.path, source=files["sd1-target"], target=files["sd1-pruned"], energy=0.9, runtime=runtime
    )
    second = lib_transfer.transfer(request, runtime=runtime)
    assert second.path is not None
    metadata = hosts.read(second.path).metadata
    assert metadata["ss_sd_model_name"] == files["sd1-pruned"].name
    assert metadata["transfer_lora.parent_name"] == first.path.stem
    assert metadata["transfer_lora.parent_sshs_model_hash"] == out.metadata["sshs_model_hash"]
    assert metadata["ss_tag_frequency"] == TAGS


def test_the_same_request_is_already_done_and_gives_the_same_bytes(
    files: tiny.Files, outputs: Outputs, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    parent, first, _ = outputs["sd1-target"]
    assert first.path is not None
    kept = first.path.read_bytes()

    def request(cache: lib_transfer.Runtime) -> lib_transfer.Job:
        return lib_transfer.request(
            parent, source=files["sd1-source"], target=files["sd1-target"], energy=0.9, runtime=cache
        )

    again = lib_transfer.transfer(request(runtime), runtime=runtime)
    assert (again.status, again.report) == ("already done", None)
    assert first.path.read_bytes() == kept
    # Another cache, another number of workers, another folder: the same bytes.
    other = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache", workers=1)
    folder = tmp_path / "out"
    folder.mkdir()
    made = lib_transfer.transfer(request(other), lib_transfer.Destination(folder=folder), runtime=other)
    assert made.path is not None
    assert made.path.read_bytes() == kept


def test_side_files_come_along(files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path) -> None:
    path = tiny.save(tmp_path / "style.safetensors", tiny.factors("lora_unet_conv_in", (8, 4, 3, 3)), None, PARENT)
    card = {
        "description": "d",
        "sd version": "SD2",
        "activation text": "my style",
        "preferred weight": 0.7,
        "mine": [1],
    }
    (tmp_path / "style.json").write_text(json.dumps(card))
    (tmp_path / "style.preview.png").write_bytes(b"\x89PNG and so on")
    (tmp_path / "style.txt").write_text("described")
    (tmp_path / "style.civitai.info").write_text('{"id": 7}')
    (tmp_path / "style-2.txt").write_text("another file's")
    request = lib_transfer.request(path, target=files["sd1-target"], method="reuse", runtime=runtime)
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.path is not None
    stem = result.path.stem
    carried = {p.name.removeprefix(stem) for p in result.sidecars}
    assert carried == {".json", ".preview.png", ".txt", ".civitai.info"}
    new = json.loads((tmp_path / f"{stem}.json").read_text())
    assert new["sd version"] == "SD1"
    assert "sd1-target" in new["notes"]
    assert {k: new[k] for k in ("description", "activation text", "preferred weight", "mine")} == {
        k: card[k] for k in ("description", "activation text", "preferred weight", "mine")
    }
    assert (tmp_path / f"{stem}.preview.png").read_bytes() == b"\x89PNG and so on"
    assert json.loads((tmp_path / "style.json").read_text()) == card


class TestCarriedOver:
    """``.diff``, ``.diff_b``, ``w_norm``, ``b_norm``: what both hosts load is written, the rest is reported."""

    CONV, NORM = "lora_unet_down_blocks_0_resnets_0_conv1", "lora_unet_down_blocks_0_resnets_0_norm1"
    LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    TEXT = "lora_te_text_model_encoder_layers_0_layer_norm1"
    KEY = f"{tiny.UNET}input_blocks.1.0.in_layers"

    def _run(self, transfer: Callable[..., Any], path: Path, tensors: tiny.Weights, **settings: Any) -> Any:
        return transfer(tiny.save(path / "style.safetensors", tensors), "sd1-source", "sd1-target", **settings)

    def test_as_they_are_in_both_hosts(self, transfer: Any, files: tiny.Files, tmp_path: Path) -> None:
        weights = {
            f"{self.CONV}.diff": torch.randn(8, 8, 3, 3),
            f"{self.CONV}.diff_b": torch.randn(8),
            f"{self.NORM}.w_norm": torch.randn(8),
            f"{self.NORM}.b_norm": torch.randn(8),
        }
        result = self._run(transfer, tmp_path, weights, method="reuse", strength=-2.0)
        assert [m.decision for m in result.report.modules] == ["carried over", "carried over"]
        before = files.tensors["sd1-target"]
        for forge_host in (False, True):
            changed = hosts.Host(before, forge_host=forge_host).load(hosts.read(result.path))
            for key, name in ((f"{self.KEY}.2", self.CONV), (f"{self.KEY}.0", self.NORM)):
                ends = (".diff", ".diff_b") if name == self.CONV else (".w_norm", ".b_norm")
                for end, suffix in zip((".weight", ".bias"), ends, strict=True):
                    change = changed[key + end] - before[key + end].double()
                    assert torch.allclose(change, -2 * weights[name + suffix].double(), atol=1e-6)

    @pytest.mark.parametrize(
        ("name", "given", "added", "shape"),
        [
            (CONV, "diff_b", "diff", (8, 8, 3, 3)),
            (NORM, "w_norm", "b_norm", (8,)),
            (NORM, "b_norm", "w_norm", (8,)),
        ],
    )
    def test_a_lone_one_is_completed_by_zeros(
        self,
        name: str,
        given: str,
        added: str,
        shape: tuple[int, ...],
        transfer: Any,
        files: tiny.Files,
        tmp_path: Path,
    ) -> None:
        result = self._run(transfer, tmp_path, {f"{name}.{given}": torch.ones(8)})
        out = hosts.read(result.path)
        assert set(out.names[name]) == {given, added}
        assert out.tensors[f"{name}.{added}"].shape == shape
        assert not out.tensors[f"{name}.{added}"].any()
        assert not hosts.Host(files.tensors["sd1-target"], forge_host=False).refuses(out)

    def test_ia3_on_a_norm_is_a_full_difference(self, transfer: Any, files: tiny.Files, tmp_path: Path) -> None:
        """Only what the adapter holds as a norm's difference is written as one."""
        scaled = {f"{self.NORM}.weight": torch.randn(8), f"{self.NORM}.on_input": torch.tensor(0)}
        result = self._run(transfer, tmp_path, scaled, method="reuse")
        out = hosts.read(result.path)
        assert set(out.names[self.NORM]) == {"diff"}
        change = files.tensors["sd1-target"][f"{self.KEY}.0.weight"] * scaled[f"{self.NORM}.weight"]
        torch.testing.assert_close(out.tensors[f"{self.NORM}.diff"], change)

    @pytest.mark.parametrize("ending", ["b_norm", "w_norm"])
    def test_a_norms_difference_goes_with_no_other_layer(self, ending: str, transfer: Any, tmp_path: Path) -> None:
        tensors = {**tiny.factors(self.CONV, (8, 8, 3, 3)), f"{self.LINEAR}.{ending}": torch.ones(8)}
        result = self._run(transfer, tmp_path, tensors)
        assert set(hosts.read(result.path).names) == {self.CONV}
        (left,) = [m for m in result.report.modules if m.name == self.LINEAR]
        assert left.decision == "unsupported"
        assert left.norm_before == pytest.approx(8**0.5)

    def test_a_bias_beside_a_lora_is_written_for_those_who_read_it(self, transfer: Any, tmp_path: Path) -> None:
        """A1111 passes over it; the report says so. Times the strength, and its size counts."""
        both = {**tiny.factors(self.CONV, (8, 8, 3, 3)), f"{self.CONV}.diff_b": 2 * torch.ones(8)}
        result = self._run(transfer, tmp_path, both, strength=0.5)
        out = hosts.read(result.path)
        assert set(out.names[self.CONV]) == {"lora_up.weight", "lora_down.weight", "alpha", "diff_b"}
        torch.testing.assert_close(out.tensors[f"{self.CONV}.diff_b"].float(), torch.ones(8))
        (module,) = result.report.modules
        assert "which Forge and ComfyUI read and A1111 does not" in module.reason
        up, down = (both[f"{self.CONV}.{end}.weight"].flatten(1).double() for end in ("lora_up", "lora_down"))
        weight = 0.5 * (up @ down)  # alpha 1.5 over rank 3
        assert module.norm_before == pytest.approx(float((weight.square().sum() + 8 * 4) ** 0.5), rel=1e-5)

    def test_a_bias_without_a_place_is_named(self, transfer: Any, tmp_path: Path) -> None:
        """The attention's query has no bias; the convolution's has 8 numbers."""
        tensors = {**tiny.factors(self.CONV, (8, 8, 3, 3)), f"{self.CONV}.diff_b": torch.ones(9)}
        tensors |= {**tiny.factors(self.LINEAR, (8, 8)), f"{self.LINEAR}.diff_b": torch.ones(8)}
        result = self._run(transfer, tmp_path, tensors)
        assert not [key for key in hosts.read(result.path).tensors if key.endswith("diff_b")]
        accounts = result.report.accounts
        assert (accounts.tensors, accounts.carried, accounts.words) == (8, 6, "2 biases")
        assert any("9 numbers" in loss.reason for loss in accounts.losses)
        assert any("has no bias" in loss.reason for loss in accounts.losses)
        assert result.report.totals.energy_kept is not None and result.report.totals.energy_kept < 0.9

    @pytest.mark.parametrize("method", ["reuse", "rotation"])
    def test_a_text_encoders_norm_is_written_for_a1111(
        self, method: str, transfer: Any, files: tiny.Files, tmp_path: Path
    ) -> None:
        """Forge knows none, and loads the rest."""
        tensors = {**tiny.factors(self.CONV, (8, 8, 3, 3)), f"{self.TEXT}.w_norm": torch.ones(24)}
        result = self._run(transfer, tmp_path, tensors, method=method)
        out = hosts.read(result.path)
        assert set(out.names[self.TEXT]) == {"w_norm", "b_norm"}
        assert not out.tensors[f"{self.TEXT}.b_norm"].any()
        (norm,) = [m for m in result.report.modules if m.name == self.TEXT]
        assert (norm.decision, norm.reason) == ("carried over", "as it is, which A1111 loads and Forge does not")
        before = files.tensors["sd1-target"]
        key = f"{tiny.TEXT}0.layer_norm1.weight"
        for forge_host, moved in ((False, 1.0), (True, 0.0)):
            host = hosts.Host(before, forge_host=forge_host)
            assert not host.refuses(out)
            change = host.load(out).get(key, before[key].double()) - before[key].double()
            torch.testing.assert_close(change, moved * torch.ones(24, dtype=torch.float64))

    def test_so_many_norms_that_forge_would_load_nothing_are_named(self, transfer: Any, tmp_path: Path) -> None:
        """Six of two tensors each are as many as it bears; LyCORIS writes all 24."""
        for count in (6, 7):
            names = [self.TEXT.replace("layers_0", f"layers_{n}") for n in range(count)]
            norms = {f"{name}.{end}": torch.ones(24) for name in names for end in ("w_norm", "b_norm")}
            result = self._run(transfer, tmp_path, {**tiny.factors(self.CONV, (8, 8, 3, 3)), **norms})
            written = {name for name in hosts.read(result.path).names if name in names}
            assert len(written) == (6 if count == 6 else 0)
            reasons = {loss.reason for loss in result.report.accounts.losses}
            assert reasons == (set() if count == 6 else {partly_loaded.TOO_MANY})
