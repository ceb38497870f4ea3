"""A text encoder that an adapter changes and no file of the checkpoint holds, as in the ordinary flux1-dev.safetensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lib_transfer
from lib_transfer import methods
from lib_transfer.architecture import architectures
from lib_transfer.conversion.publish import TransferResult
from lib_transfer.conversion.unseen import FILES as KNOWN_FILES
from lib_transfer.errors import MismatchError
from lib_transfer.library.adapters import Found
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.decide import Convert, TransferSettings, decide
from lib_transfer.library.index import FileIndex
from lib_transfer.library.library import Library
from lib_transfer.library.outputs import Outputs
from tests import tiny
from tests.conversion.test_accounts import tallies

LAYER = "text_model_encoder_layers_3_"
FLUX = {
    "lora_unet_double_blocks_0_img_attn_proj": "model.diffusion_model.double_blocks.0.img_attn.proj.weight",
    "lora_unet_single_blocks_1_linear2": "model.diffusion_model.single_blocks.1.linear2.weight",
    f"lora_te1_{LAYER}mlp_fc1": "text_encoders.clip_l.transformer.text_model.encoder.layers.3.mlp.fc1.weight",
    "lora_te3_encoder_block_2_layer_0_SelfAttention_o": (
        "text_encoders.t5xxl.transformer.encoder.block.2.layer.0.SelfAttention.o.weight"
    ),
}
SDXL = {
    "lora_unet_input_blocks_4_1_proj_in": "model.diffusion_model.input_blocks.4.1.proj_in.weight",
    f"lora_te1_{LAYER}mlp_fc2": "conditioner.embedders.0.transformer.text_model.encoder.layers.3.mlp.fc2.weight",
    f"lora_te2_{LAYER}self_attn_k_proj": "conditioner.embedders.1.model.transformer.resblocks.3.attn.out_proj.weight",
}
FILES = {"flux-dev": FLUX, "sdxl": SDXL}
# What people call them, and the file that they have.
NAMED = {
    "flux-dev": {"te1": ("CLIP-L", "clip_l.safetensors"), "te3": ("T5-XXL", "t5xxl_fp16.safetensors")},
    "sdxl": {"te1": ("CLIP-L", "clip_l.safetensors"), "te2": ("CLIP-G", "clip_g.safetensors")},
}


def encoders_of(weights: tiny.Weights) -> tiny.Weights:
    return {key: w for key, w in weights.items() if key.startswith(("conditioner.", "text_encoders."))}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    made: dict[str, Path] = {}
    for base in FILES:
        source = tiny.weights(base)
        for end, weights in (("source", source), ("target", tiny.fine_tuned(source))):
            prefix = "model.diffusion_model." if base == "flux-dev" else ""
            core = {key.removeprefix(prefix): w for key, w in weights.items() if key not in encoders_of(weights)}
            made[f"{base}-{end}"] = tiny.save(folder / f"{base}-{end}.safetensors", weights, torch.float16)
            made[f"{base}-{end}-core"] = tiny.save(folder / f"{base}-{end}-core.safetensors", core, torch.float16)
    return made


@pytest.fixture
def run(bases: dict[str, Path], tmp_path: Path) -> Callable[..., TransferResult]:
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache", workers=1)

    def transfer(
        tensors: tiny.Weights, source: str | None, target: str | list[str], method: str, **settings: Any
    ) -> TransferResult:
        (tmp_path / "out").mkdir(exist_ok=True)
        adapter = tiny.save(tmp_path / "style.safetensors", tensors)
        given = None if source is None else bases[source]
        there = [bases[name] for name in ([target] if isinstance(target, str) else target)]
        request = lib_transfer.request(adapter, source=given, target=there, method=method, runtime=runtime, **settings)
        return lib_transfer.transfer(request, lib_transfer.Destination(folder=tmp_path / "out"), runtime=runtime)

    return transfer


def lora(base: str, bases: dict[str, Path]) -> tiny.Weights:
    shapes = {key: tuple(w.shape) for key, w in load_file(bases[f"{base}-source"]).items()}
    made: tiny.Weights = {}
    for name, key in FILES[base].items():
        made |= tiny.factors(name, shapes[key])
    return made


def test_every_text_encoder_has_a_name_for_people() -> None:
    models = {layout.model for architecture in architectures() for layout in architecture.text_encoders}
    assert models == KNOWN_FILES.keys()


@pytest.mark.parametrize("base", FILES)
def test_reuse_keeps_it_unseen(base: str, bases: dict[str, Path], run: Any) -> None:
    """With the very numbers that it has, under the same names, and what an attention needs to be loaded beside it."""
    given = lora(base, bases)
    result = run(given, None, f"{base}-target-core", "reuse")
    out = load_file(result.path)
    for name in FILES[base]:
        own, theirs = (
            file[f"{name}.alpha"].double()
            / 3
            * file[f"{name}.lora_up.weight"].double()
            @ file[f"{name}.lora_down.weight"].double()
            for file in (given, out)
        )
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-7)
    partners = {key.rpartition("_")[0] for key in out if "self_attn_" in key and "k_proj" not in key}
    assert bool(partners) == (base == "sdxl")
    if base == "sdxl":
        attention = f"lora_te2_{LAYER}self_attn_"
        others = [f"{attention}{leaf}_proj.lora_up.weight" for leaf in ("q", "v", "out")]
        assert all(not out[key].any() for key in others)
    told = {module.name: module for module in result.report.modules}
    for part, (encoder, _) in NAMED[base].items():
        (module,) = [m for name, m in told.items() if name.startswith(f"lora_{part}_")]
        assert module.decision == "copied"
        assert module.reason == f"as it is, unseen: {base}-target-core.safetensors holds no text encoder {encoder}"
    assert result.report.totals.modules == len(FILES[base]) == result.report.totals.written
    assert all(tally[1:] == (len(given), 0) for tally in tallies(result).values())


@pytest.mark.parametrize("lacks", ["source", "target"])
@pytest.mark.parametrize("base", FILES)
def test_a_method_that_needs_its_weights_says_which_file_to_name(
    base: str, lacks: str, bases: dict[str, Path], run: Any
) -> None:
    ends = {end: f"{base}-{end}{'-core' if end == lacks else ''}" for end in ("source", "target")}
    result = run(lora(base, bases), ends["source"], ends["target"], "rotation", threshold=0.0)
    told = {module.name: module for module in result.report.modules}
    assert result.report.totals.modules == len(FILES[base])
    for part, (encoder, file) in NAMED[base].items():
        (module,) = [m for name, m in told.items() if name.startswith(f"lora_{part}_")]
        assert module.decision == "no counterpart"
        assert f"{ends[lacks]}.safetensors holds no text encoder {encoder}" in module.reason
        assert f"add --{lacks} {file}," in module.reason
        assert module.norm_before is not None and module.norm_before > 0
        assert module.position is not None
    assert result.report.totals.energy_kept < 0.9
    lost = 3 * len(NAMED[base])
    assert all(
        tally == (12 if base == "flux-dev" else 9, 9 - lost + (3 if base == "flux-dev" else 0), lost)
        for tally in tallies(result).values()
    )


def test_nothing_else_in_the_file_is_an_error_that_says_so(bases: dict[str, Path], run: Any) -> None:
    tensors = {key: t for key, t in lora("flux-dev", bases).items() if key.startswith("lora_te1_")}
    with pytest.raises(MismatchError, match=r"holds no text encoder CLIP-L; name its file too: .*--source clip_l"):
        run(tensors, "flux-dev-source-core", "flux-dev-target", "rotation")
    assert run(tensors, None, "flux-dev-target-core", "reuse").status == "written"


def test_an_update_that_is_made_from_the_weight_is_not_kept(bases: dict[str, Path], run: Any) -> None:
    tensors = lora("flux-dev", bases)
    name = f"lora_te1_{LAYER}mlp_fc1"
    tensors[f"{name}.dora_scale"] = torch.ones(tensors[f"{name}.lora_up.weight"].shape[0], 1)
    result = run(tensors, None, "flux-dev-target-core", "reuse")
    (module,) = [m for m in result.report.modules if m.name == name]
    assert (module.decision, module.norm_before) == ("no counterpart", None)
    assert "--target clip_l.safetensors" in module.reason
    assert result.report.totals.unmeasured == 1
    assert result.report.totals.energy_kept is None


def test_other_algorithms_are_kept_in_their_own_size(bases: dict[str, Path], run: Any) -> None:
    """LoKr, whose header tells no size, and LoHa."""
    fc1, fc2 = (f"lora_te1_{LAYER}mlp_{leaf}" for leaf in ("fc1", "fc2"))
    shape = load_file(bases["flux-dev-source"])[FLUX[fc1]].shape
    tensors = lora("flux-dev", bases)
    tensors = {key: t for key, t in tensors.items() if not key.startswith(fc1)}
    tensors |= {f"{fc1}.lokr_w1": torch.randn(4, 4), f"{fc1}.lokr_w2": torch.randn(shape[0] // 4, shape[1] // 4)}
    for n in "12":
        tensors |= {f"{fc2}.hada_w{n}_a": torch.randn(shape[1], 2), f"{fc2}.hada_w{n}_b": torch.randn(2, shape[0])}
    result = run(tensors, None, "flux-dev-target-core", "reuse", rank="full")
    out = load_file(result.path)
    expected = torch.kron(tensors[f"{fc1}.lokr_w1"], tensors[f"{fc1}.lokr_w2"])
    factors = (
        out[f"{fc1}.lora_up.weight"] @ out[f"{fc1}.lora_down.weight"]
        if f"{fc1}.lora_up.weight" in out
        else out[f"{fc1}.diff"]
    )
    torch.testing.assert_close(factors, expected, rtol=1e-3, atol=1e-3)
    assert result.report.accounts.words == ""


def test_an_encoder_that_two_architectures_share_is_asked_for(
    bases: dict[str, Path], files: tiny.Files, tmp_path: Path
) -> None:
    """Between SD1 and SDXL only CLIP-L corresponds, and the target's file lacks it."""
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache", workers=1)
    adapter = tiny.save(tmp_path / "style.safetensors", tiny.factors(f"lora_te_{LAYER}mlp_fc1", (96, 24)))
    request = lib_transfer.request(
        adapter, source=files["sd1-source"], target=bases["sdxl-target-core"], runtime=runtime
    )
    with pytest.raises(MismatchError, match=r"holds no text encoder CLIP-L; name its file too: .* --target clip_l"):
        lib_transfer.analyse(request, runtime=runtime)


def test_a_norm_of_it_is_kept_for_a1111(bases: dict[str, Path], run: Any) -> None:
    norm = f"lora_te1_{LAYER}layer_norm1"
    tensors = lora("sdxl", bases) | {f"{norm}.{end}": torch.ones(24) for end in ("w_norm", "b_norm")}
    result = run(tensors, None, "sdxl-target-core", "reuse")
    torch.testing.assert_close(load_file(result.path)[f"{norm}.w_norm"], torch.ones(24))
    (module,) = [m for m in result.report.modules if m.name == norm]
    assert module.reason == (
        "as it is, which A1111 loads and Forge does not, unseen: sdxl-target-core.safetensors holds no text encoder CLIP-L"
    )


def test_a_module_that_a_pruned_file_lacks_is_no_text_encoder(files: tiny.Files, tmp_path: Path) -> None:
    """And no misfit: its name is one of the architecture's, and its place is known."""
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache", workers=1)
    gone = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    kept = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    adapter = tiny.save(
        tmp_path / "style.safetensors", {**tiny.factors(kept, (16, 16)), **tiny.factors(gone, (32, 32))}
    )
    request = lib_transfer.request(adapter, target=files["sd1-pruned"], method="reuse", runtime=runtime)
    report = lib_transfer.analyse(request, runtime=runtime)
    (module,) = [m for m in report.modules if m.name == gone]
    assert module.reason == "sd1-pruned.safetensors lacks this module of Stable Diffusion 1.x"
    assert module.position is not None and module.position.block == "MID"
    assert report.totals.energy_kept is not None and report.totals.energy_kept < 1


@pytest.mark.parametrize("method", ["reuse", "rotation"])
def test_the_files_that_a_program_loads_beside_a_checkpoint_are_found(
    method: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """As Forge does with its additional modules: for the target and for the source, the VAE among them left out."""
    weights = load_file(bases["flux-dev-target"])
    prefix = "text_encoders.clip_l.transformer."
    encoder = {key.removeprefix(prefix): w for key, w in weights.items() if key.startswith(prefix)}
    beside = (
        tiny.save(tmp_path / "clip_l.safetensors", encoder),
        tiny.save(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": torch.zeros(4, 4, 3, 3)}),
    )
    tensors = {key: t for key, t in lora("flux-dev", bases).items() if not key.startswith("lora_te3_")}
    adapter = tiny.save(tmp_path / "style.safetensors", tensors)
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache", workers=1)
    index = FileIndex(tmp_path / "cache")
    library = Library(index, runtime.hashes, outputs=Outputs(index), beside=beside)
    ends = {end: Checkpoint(end, bases[f"flux-dev-{end}-core"]) for end in ("source", "target")}
    values = methods.settings(methods.get(method), {"threshold": 0.0} if method == "rotation" else {})
    settings = TransferSettings(method, values, source=ends["source"])
    decision = decide(Found("style", adapter), ends["target"], settings, library)
    assert isinstance(decision, Convert)
    assert decision.target.encoders == beside[:1]
    report = lib_transfer.analyse(decision.job(runtime.hashes), runtime=runtime)
    assert report.accounts.words == ""
    # The text encoder is the same file for both ends.
    assert {m.decision for m in report.modules} == {"copied", *(() if method == "reuse" else ("transferred",))}
    assert not any("unseen" in m.reason for m in report.modules)


def test_blocks_that_a_relative_lacks_are_no_misfits(bases: dict[str, Path], tmp_path: Path) -> None:
    """SSD-1B has 34 of SDXL's 70 transformer blocks: a LoRA for SDXL goes there all the same."""
    target = tiny.save(tmp_path / "ssd.safetensors", tiny.weights("ssd-1b"), torch.float16)
    shapes = {key: tuple(w.shape) for key, w in load_file(bases["sdxl-source"]).items()}
    tensors: tiny.Weights = {}
    for block in range(10):
        path = f"input_blocks.7.1.transformer_blocks.{block}.attn1.to_q"
        tensors |= tiny.factors(f"lora_unet_{path.replace('.', '_')}", shapes[f"{tiny.UNET}{path}.weight"])
    adapter = tiny.save(tmp_path / "style.safetensors", tensors)
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache", workers=1)
    request = lib_transfer.request(adapter, target=target, method="reuse", runtime=runtime)
    report = lib_transfer.analyse(request, runtime=runtime)
    assert (report.totals.modules, report.totals.written) == (10, 4)
    assert all(module.position is not None and module.position.block == "IN07" for module in report.modules)
    assert report.totals.energy_kept is not None and 0.2 < report.totals.energy_kept < 0.6
    reason = "ssd.safetensors lacks this module of Stable Diffusion XL"
    assert {m.reason for m in report.modules if not m.written} == {reason}


def test_a_checkpoint_may_stand_for_all_its_text_encoders(bases: dict[str, Path], run: Any) -> None:
    result = run(lora("sdxl", bases), None, ["sdxl-target-core", "sdxl-target"], "reuse")
    assert result.report.accounts.words == ""
    assert not any("unseen" in m.reason for m in result.report.modules)


def test_no_encoder_is_wider_than_its_model(bases: dict[str, Path], run: Any) -> None:
    wide = f"lora_te1_{LAYER}mlp_fc2"
    tensors = {key: t for key, t in lora("sdxl", bases).items() if not key.startswith(wide)}
    result = run(tensors | tiny.factors(wide, (1280, 5120)), None, "sdxl-target-core", "reuse")
    assert {m.name for m in result.report.modules if not m.written} == {wide}


def test_an_encoder_that_the_targets_kind_does_not_have_is_called_so(bases: dict[str, Path], tmp_path: Path) -> None:
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache", workers=1)
    chroma = tiny.save(tmp_path / "chroma.safetensors", tiny.weights("chroma"), torch.float16)
    adapter = tiny.save(tmp_path / "style.safetensors", lora("flux-dev", bases))
    request = lib_transfer.request(adapter, source=bases["flux-dev-source"], target=chroma, runtime=runtime)
    report = lib_transfer.analyse(request, runtime=runtime)
    (module,) = [m for m in report.modules if m.name.startswith("lora_te1_")]
    assert module.reason == "Chroma has no such text encoder"
