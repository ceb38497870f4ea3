"""Checkpoints as running models, against pipelines of diffusers with the same weights."""

from __future__ import annotations

import dataclasses
import gc
import socket
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib_transfer.errors import MismatchError, UnsupportedError
from lib_transfer.evaluation import loading, verify
from lib_transfer.evaluation.loading import packages, runner
from lib_transfer.evaluation.loading.autoencoder import need_autoencoder
from lib_transfer.library.base import Base, open_base
from lib_transfer.linalg.factors import Factors
from lib_transfer.models import Model, applied
from lib_transfer.models.model import predict
from lib_transfer.update import Update
from tests import tiny
from tests.evaluation import nets, pipelines

pytest.importorskip("diffusers", reason="the tools are not in this environment")

CPU = torch.device("cpu")
USUAL = {"sd1": 1, "sd2": 1, "sdxl": 2}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("something is asked of the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def weights(name: str) -> tiny.Weights:
    return pipelines.weights(name)


@pytest.fixture(scope="module")
def path(name: str, weights: tiny.Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / f"{name}.safetensors", weights)


@pytest.fixture(scope="module")
def pipe(name: str, weights: tiny.Weights, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return pipelines.pipeline(name, weights, tmp_path_factory.mktemp("tokenizer"))


def same(one: Tensor, other: Tensor) -> None:
    assert other.std() > 1e-3
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.std()))


def test_a_model_says_what_the_pipeline_says(name: str, path: Path, pipe: Any) -> None:
    """Every prompt by itself, an empty one, and one more layer of the text encoders left out."""
    inputs = nets.inputs(1)
    time = inputs.times
    with open_base(path, "") as base:
        for more in (0, 1):
            with loading.loaded(base, CPU, 8, USUAL[name] + more) as model:
                step = model.schedule.steps(time)
                for prompt in ("", "Émile's red house, 1girl, (night:1.2) 日本 " + "word " * 90, "a cat"):
                    expected = pipelines.predicted(pipe, inputs.clean, step, prompt, more or None)
                    said = model._forward(inputs.clean, step, [prompt])  # type: ignore[attr-defined]
                    same(said, expected)
                together = model._forward(inputs.clean.repeat(2, 1, 1, 1), step.repeat(2), ["a cat", ""])  # type: ignore[attr-defined]
                same(together[:1], expected)


def test_the_autoencoder_is_that_of_the_pipeline(name: str, path: Path, pipe: Any) -> None:
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with open_base(path, "") as base, loading.loaded(base, CPU, 8) as model, torch.no_grad():
        latents = model.encode(pictures)
        same(latents, pipe.vae.encode(pictures).latent_dist.mean * pipelines.SCALES[name])
        same(model.decode(latents), pipe.vae.decode(latents / pipelines.SCALES[name]).sample)


def test_a_folder_of_diffusers_is_the_same_model(path: Path, pipe: Any, tmp_path: Path) -> None:
    """Of Stable Diffusion 2 it has one layer of the text encoder less, which nothing reads."""
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if part in pipe.components:
            getattr(pipe, part).save_pretrained(tmp_path / part)
    said = []
    for opened in (path, tmp_path):
        with open_base(opened, "") as base, loading.loaded(base, CPU, 8) as model:
            latents = model.encode(torch.full((1, 3, 32, 32), 0.3))
            said.append((predict(model, nets.inputs(1)), latents, model.decode(latents)))
    for one, other in zip(*said, strict=True):
        same(one, other)


@pytest.mark.parametrize("relative", ["ssd-1b", "koala-700m"])
def test_published_relatives_say_what_diffusers_says(
    relative: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Diffusers' network is given what ours was given."""
    given = pipelines.with_whole_vector(tiny.weights(relative, width=pipelines.WIDTH))
    theirs, built, asked = pipelines.unet(relative, given), [], {}
    classes = packages.networks()

    def unet(**config: Any) -> Any:
        built.append(classes.unet(**config))
        return built[-1]

    def remember(_: nn.Module, arguments: Any, named: Any) -> None:
        asked.update(arguments=arguments, named=named)

    monkeypatch.setattr(runner, "networks", lambda: dataclasses.replace(classes, unet=unet))
    with open_base(tiny.save(tmp_path / "it.safetensors", given), "") as base, loading.loaded(base, CPU, 8) as model:
        built[0].register_forward_pre_hook(remember, with_kwargs=True)
        said = model._forward(nets.inputs(2).clean, torch.tensor([10, 900]), ["a", "b"])  # type: ignore[attr-defined]
    with torch.no_grad():
        same(said, theirs(*asked["arguments"], **asked["named"])[0])


@pytest.mark.parametrize("of", ["sd1", "sdxl"])
def test_what_a_pruned_relative_lacks_does_nothing(of: str, tmp_path: Path) -> None:
    """It predicts what the whole model does whose blocks there add zeros to what goes through them."""
    whole = tiny.weights(of)
    lacking = tuple(tiny.UNET + part for part in tiny.PRUNED[of])
    ends = ("proj_out.weight", "proj_out.bias", "out_layers.3.weight", "out_layers.3.bias")
    ends += ("attn1.to_out.0.weight", "attn1.to_out.0.bias", "attn2.to_out.0.weight", "attn2.to_out.0.bias")
    ends += ("ff.net.2.weight", "ff.net.2.bias")
    idle = {k: torch.zeros_like(w) if k.startswith(lacking) and k.endswith(ends) else w for k, w in whole.items()}
    said = []
    for number, given in enumerate((idle, {k: w for k, w in whole.items() if not k.startswith(lacking)})):
        file = tiny.save(tmp_path / f"{number}.safetensors", given)
        with open_base(file, "") as base, loading.loaded(base, CPU, 8) as model:
            said.append(predict(model, nets.inputs(1)))
    same(said[1], said[0])


def test_an_update_of_any_module_does_what_merged_weights_do(
    name: str, path: Path, weights: tiny.Weights, tmp_path: Path
) -> None:
    """One of every role, those among them that a file keeps as rows of another's tensor, or the other way round."""
    generator, merged = torch.Generator().manual_seed(1), {key: w.clone() for key, w in weights.items()}
    with open_base(path, "") as base:
        chosen = {(m.position.part, m.position.role): m for m in base.modules if m.kind != "embedding"}
        updates = {}
        for module in chosen.values():
            if len(module.shape) == 1:
                continue
            out, into = module.matrix_shape
            up, down = (torch.randn(*shape, generator=generator) for shape in ((out, 2), (2, into)))
            factor = 0.3 * weights[module.weight].std() / 2**0.5
            updates[module.name] = Update(factors=Factors(up * factor, down))
            change = (up * factor @ down).reshape(module.shape)
            first, end = module.rows[0] if module.rows else (0, out)
            part = merged[module.weight].T if module.transposed else merged[module.weight][first:end]
            part += change
        with loading.loaded(base, CPU, 8) as model:
            assert set(model.places) == {module.name for module in base.modules}
            before = predict(model, nets.inputs(2))
            with applied(model.places, updates):
                found = predict(model, nets.inputs(2))
            assert torch.equal(predict(model, nets.inputs(2)), before)
            with pytest.raises(MismatchError), applied(model.places, {"nowhere": next(iter(updates.values()))}):
                pass
    with open_base(tiny.save(tmp_path / "m.safetensors", merged), "") as base, loading.loaded(base, CPU, 8) as model:
        same(found, predict(model, nets.inputs(2)))
    assert (found - before).norm() > 0.01 * before.norm()


@pytest.mark.parametrize("of", ["sd1", "sdxl"])
def test_checkpointing_gives_the_same_gradients(of: str, files: tiny.Files) -> None:
    target = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k"
    found, runs = [], []
    for checkpointing in (False, True):
        with (
            open_base(files[f"{of}-source"], "") as base,
            loading.loaded(base, CPU, 8, checkpointing=checkpointing) as model,
        ):
            out, into = base.by_name[target].matrix_shape
            generator = torch.Generator().manual_seed(1)
            up = torch.randn(out, 2, generator=generator).requires_grad_()
            down = torch.randn(2, into, generator=generator).requires_grad_()
            count: list[int] = []
            model.places[target].module.register_forward_hook(lambda *_, count=count: count.append(1))
            with applied(model.places, {target: Update(factors=Factors(up, down))}), torch.enable_grad():
                predict(model, nets.inputs(2), with_grad=True).square().sum().backward()
            assert up.grad is not None
            assert down.grad is not None
            found.append(torch.cat([up.grad.flatten(), down.grad.flatten()]))
            runs.append(len(count))
    same(found[1] / found[0].std(), found[0] / found[0].std())
    assert runs == [1, 2]


def test_prompts_are_encoded_with_the_clip_skip_that_was_asked_for(path: Path, name: str) -> None:
    models, usual = loading.DiffusersModels(CPU), USUAL[name]
    with open_base(path, "") as base:
        assert [models.clip_skip(base, asked) for asked in (None, 1, 2, 3)] == [usual, usual, 2, 3]
        said = {}
        for skip in (usual, usual + 1):
            with models.opener((64, 64)) as open_model, open_model(base, skip) as model:
                said[skip] = predict(model, nets.inputs(2))
        with loading.loaded(base, CPU, 8) as model:
            assert torch.equal(predict(model, nets.inputs(2)), said[usual])
    assert not torch.allclose(said[usual], said[usual + 1], atol=1e-4)


def test_a_model_is_gone_when_the_next_one_comes(files: tiny.Files) -> None:
    def built(base: Base) -> tuple[Model, weakref.ref[object]]:
        with loading.loaded(base, CPU, 8) as model:
            model.encode(torch.zeros(1, 3, 16, 16)) if has_autoencoder(base) else None
            return model, weakref.ref(next(iter(model.places.values())).module)

    with open_base(files["sd1-source"], "") as base:
        model, left = built(base)
        gc.collect()
        assert left() is None
        assert not model.places


def has_autoencoder(base: Base) -> bool:
    try:
        need_autoencoder(base)
    except UnsupportedError:
        return False
    return True


def test_the_noise_schedule_of_what_predicts_velocity(tmp_path: Path) -> None:
    import diffusers

    given = tiny.weights("sdxl")
    for markers, rescaled in ((("v_pred",), False), (("v_pred", "ztsnr"), True)):
        marked = given | {key: torch.zeros(1) for key in markers}
        theirs = diffusers.DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=rescaled
        )
        with open_base(tiny.save(tmp_path / "v.safetensors", marked), "") as base:
            schedule = runner.schedule_of(base)
        assert schedule.prediction == "velocity"
        assert schedule.alphas_cumprod is not None
        torch.testing.assert_close(schedule.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=1e-3, atol=1e-6)


def test_what_cannot_be_run_is_said(tmp_path: Path) -> None:
    given = tiny.weights("sd1")
    gate = f"{tiny.UNET}input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight"
    broken: dict[str, tuple[Callable[[], tiny.Weights], str]] = {
        "bare": (lambda: {k: w for k, w in given.items() if k.startswith(tiny.UNET)}, "bare.safetensors has no text encoder at"),
        "edm": (lambda: given | {"edm_mean": torch.zeros(1), "edm_std": torch.zeros(1)}, "predicts EDM"),
        "gap": (lambda: {k: w for k, w in given.items() if k != gate}, r"no weight for down_blocks\.0.*ff.net.0.proj"),
        "wide": (lambda: given | {gate: torch.zeros(72, 8)}, r"has the shape \(72, 8\), where \(64, 8\) belongs"),
    }  # fmt: skip
    for name, (made, says) in broken.items():
        with (
            open_base(tiny.save(tmp_path / f"{name}.safetensors", made()), "") as base,
            pytest.raises(UnsupportedError, match=says),
            loading.loaded(base, CPU, 8),
        ):
            pass
    with (
        open_base(tiny.save(tmp_path / "it.safetensors", given), "") as base,
        loading.loaded(base, CPU, 8) as model,
        pytest.raises(UnsupportedError, match=r"it\.safetensors has no autoencoder"),
    ):
        model.decode(torch.zeros(1, 4, 8, 8))
    flux = tiny.save(tmp_path / "flux.safetensors", tiny.weights("flux-dev"))
    with open_base(flux, "") as base, pytest.raises(UnsupportedError, match="cannot be run without a WebUI"):
        loading.family_of(base)


@pytest.mark.parametrize(
    ("lacks", "says"),
    [(("diffusers",), "lacks diffusers."), (("open_clip", "clip"), "lacks open_clip_torch (for CLIP's vocabulary).")],
)
def test_without_a_package_it_says_what_to_install(
    lacks: tuple[str, ...], says: str, files: tiny.Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any file is looked at; prompts are never made of anything else."""
    there = packages.find_spec
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name in lacks else there(name))
    with pytest.raises(UnsupportedError) as caught:
        verify("nowhere.safetensors", source=files["sd1-source"], target=files["sd1-target"])
    assert says in str(caught.value)
    assert 'pip install "transfer-lora[models]"' in str(caught.value)


def test_packages_that_do_not_fit_each_other_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Torn(nn.Module):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("Failed to import diffusers.models.unet")

    packages.networks.cache_clear()
    monkeypatch.setattr(packages.importlib, "import_module", lambda _: Torn())
    with pytest.raises(UnsupportedError, match="cannot be imported: Failed to import"):
        packages.networks()
    monkeypatch.undo()
    assert packages.networks().unet.__name__ == "UNet2DConditionModel"
