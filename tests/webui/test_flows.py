"""Flows in the programs, on stand-ins: asked with a sigma and a prompt, and compared with dense mathematics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_transfer.architecture import modules, reference
from lib_transfer.errors import UnsupportedError
from lib_transfer.evaluation import Question, evaluate
from lib_transfer.evaluation.files import updates_of
from lib_transfer.formats.adapter_file import open_adapter
from lib_transfer.library.base import open_base
from lib_transfer.models import Model, applied
from lib_transfer.models.model import GUIDANCE
from lib_transfer.progress import Silent
from lib_transfer.webui.hosts import running
from lib_transfer.webui.hosts.abilities import ProgramModels
from tests import tiny
from tests.webui.engines import Machine
from tests.webui.flows import DIFFUSION, ENCODERS, ENGINES, FlowModel
from tests.webui.programs import Program

SHIFTS = {
    "anima": 3.0,
    "krea-2": 3.158193,
    "z-image": 3.0,
    "flux-dev": 3.158193,
    "chroma": 1.0,
    "flux2-klein-4b": 7.538325,
}
SPACES = {"anima": "wan2.1", "krea-2": "wan2.1", "flux2-klein-4b": "flux2"}


@pytest.fixture(scope="session")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow checkpoint of each."""
    folder = tmp_path_factory.mktemp("flows")
    for name in ENGINES:
        tiny.save(folder / f"{name}.safetensors", tiny.weights(name, width=16))
    return folder


@pytest.fixture
def machine(program: Program, flows: Path) -> Iterator[Machine]:
    """A program with all of them, none of which is loaded."""
    if not program.forge:
        pytest.skip("A1111 has no such networks")
    made = Machine(program)
    for path in sorted(flows.glob("*.safetensors")):
        program.add(path, path.stem[0] * 64)
        made.flows[path.name] = lambda tensors, info, name=path.stem: FlowModel(name, tensors, info, made.arguments)
    yield made
    made.close()


@contextmanager
def opened(path: Path) -> Iterator[Model]:
    """One checkpoint in the program's memory."""
    with open_base(path, "") as base, running.borrowed((64, 64)) as open_model, open_model(base, 1) as model:
        yield model


def lora(checkpoint: Path, path: Path, strength: float = 1.0) -> Path:
    """A LoRA on some linear layers of the transformer; of fused weights on the whole of them."""
    architecture = tiny.architecture(checkpoint.stem)
    named: dict[str, list[tuple[int, ...]]] = {}
    for module in modules(architecture, reference(architecture, width=16)):
        if module.kind == "linear" and module.output_name and module.position.part == "transformer":
            named.setdefault(str(module.output_name), []).append(module.shape)
    tensors = {}
    for number, (name, shapes) in enumerate(named.items()):
        if number % 3 == 0:
            shape = (sum(shape[0] for shape in shapes), shapes[0][1])
            tensors |= tiny.factors(name, shape, seed=number, size=0.3)
    tensors = {key: t * strength if "lora_up" in key else t for key, t in tensors.items()}
    save_file(tensors, path)
    return path


def total(checkpoint: Path, adapter: Path | None, prompt: str) -> float:
    """What the stand-in's network adds to half of its input, by dense matrices in float64, from the files alone."""
    tensors = {key: t.double() for key, t in load_file(checkpoint).items()}
    sums = {}
    for key, weight in tensors.items():
        if key.endswith(".weight") and weight.dim() == 2 and "embedding" not in key:
            bias = tensors.get(key.removesuffix("weight") + "bias", torch.zeros(1, dtype=torch.float64))
            sums[key] = weight.sum(1).mean() + bias.mean()
    changes = {} if adapter is None else load_file(adapter)
    for key, up in changes.items():
        if key.endswith(".lora_up.weight"):
            name = key.removesuffix(".lora_up.weight")
            down, alpha = changes[f"{name}.lora_down.weight"].double(), float(changes[f"{name}.alpha"])
            delta = alpha / down.shape[0] * (up.double() @ down)
            [of] = [it for it in sums if _kohya(it) == name]
            sums[of] = sums[of] + delta.sum(1).mean()
    text = sum(float(v) for key, v in sums.items() if key.startswith(ENCODERS) or ".llm_adapter." in key)
    core = sum(float(v) for key, v in sums.items() if key.startswith(DIFFUSION) and ".llm_adapter." not in key)
    known = text + len(prompt)
    # The conditions of Flux.1 dev are the text twice, and the scale that it was distilled with.
    return core + known + (known + 3.5 if checkpoint.stem == "flux-dev" else 0.0)


def _kohya(key: str) -> str:
    return "lora_unet_" + key.removeprefix(DIFFUSION).removesuffix(".weight").replace(".", "_")


@pytest.mark.parametrize("name", ENGINES)
def test_a_flow_is_asked_with_a_sigma_and_answers_as_dense_mathematics_says(
    machine: Machine, flows: Path, tmp_path: Path, name: str
) -> None:
    path = flows / f"{name}.safetensors"
    adapter = lora(path, tmp_path / "it.safetensors")
    channels, factor = ENGINES[name].channels, ENGINES[name].factor
    machine.arguments.ref_latents = held = [torch.ones(3)]
    with open_base(path, "") as base, running.borrowed((64, 48)) as open_model, open_model(base, 1) as model:
        assert model.shape == (channels, 48 // factor, 64 // factor)
        assert running.latent_space_of(base) == model.latent_space == SPACES.get(name, "flux")
        assert model.guidance == (1 if name == "flux-dev" else GUIDANCE)
        assert set(model.places) == set(base.by_name)
        generator = torch.Generator().manual_seed(3)
        x, times = torch.randn((2, *model.shape), generator=generator), torch.tensor([0.25, 0.8])
        plain = model.noise(x, times, ["a cat", "two dogs"])
        with open_adapter(adapter) as it, applied(model.places, updates_of(it, base)):
            moved = model.noise(x, times, ["a cat", "two dogs"])
        assert torch.equal(model.noise(x, times, ["a cat", "two dogs"]), plain)
        shift, seen = SHIFTS[name], x.double()
        sigma = (shift * times / (1 + (shift - 1) * times)).double().reshape(-1, 1, 1, 1)
        for file, predicted in ((None, plain), (adapter, moved)):
            added = torch.tensor([total(path, file, prompt) for prompt in ("a cat", "two dogs")], dtype=torch.float64)
            wanted = seen + (1 - sigma) * (0.5 * seen + added.reshape(-1, 1, 1, 1))
            torch.testing.assert_close(predicted.double(), wanted, rtol=1e-4, atol=1e-3)
        assert (moved - plain).abs().min() > 1e-3
        options = machine.data.sd_model.forge_objects.unet.model.options
        assert options["cond_or_uncond"] == [0]
        assert options["sigmas"].shape == (1,)
    # What the last picture referred to was not seen, and is there again.
    assert machine.arguments.ref_latents is held


@pytest.mark.parametrize("name", ["anima", "krea-2", "z-image", "flux2-klein-4b"])
def test_pictures_go_through_the_autoencoder_and_back(machine: Machine, flows: Path, name: str) -> None:
    with opened(flows / f"{name}.safetensors") as model:
        shades = torch.tensor([-0.5, 0.25]).reshape(2, 1, 1, 1)
        latents = model.encode(shades.expand(2, 3, 64, 64))
        # From 0 to 1, times three less one.
        wanted = (shades * 0.5 + 0.5) * 3 - 1
        torch.testing.assert_close(latents, wanted.expand(2, *model.shape))
        torch.testing.assert_close(model.decode(latents), shades.expand(2, 3, 64, 64))


def test_reuse_on_the_source_itself_reproduces_and_its_strength_counts(
    machine: Machine, flows: Path, tmp_path: Path
) -> None:
    path = flows / "anima.safetensors"
    adapter, half = lora(path, tmp_path / "it.safetensors"), lora(path, tmp_path / "half.safetensors", 0.5)
    question = Question(adapter, {"half": half}, prompts=("a",), inputs=2, size=64, steps=2)
    with open_base(path, "") as source, open_base(path, "") as target:
        found = evaluate(question, source, target, ProgramModels(), Silent())
    reuse, half = found.gains["reuse"], found.gains["half"]
    assert reuse.share == pytest.approx(1)
    # Half of the movement is a quarter of its square.
    assert reuse.damage is not None and half.damage is not None
    assert half.damage == pytest.approx(reuse.damage / 4, rel=1e-2)


def test_what_the_last_picture_referred_to_comes_back_after_an_error(machine: Machine, flows: Path) -> None:
    machine.arguments.ref_latents = held = [torch.ones(3)]
    with opened(flows / "z-image.safetensors") as model:
        loaded = machine.data.sd_model
        own = loaded.ref_latents
        loaded.fails = True
        with pytest.raises(ZeroDivisionError):
            model.noise(torch.zeros((1, *model.shape)), torch.tensor([0.5]), ["a"])
        assert loaded.ref_latents is own
        assert loaded.ini_latent is not None
    assert machine.arguments.ref_latents is held


def test_a_network_that_lacks_blocks_of_the_checkpoint_is_refused(machine: Machine, flows: Path) -> None:
    """Forge Neo's older versions build 28 blocks of an Anima that has 40."""

    def shallow(tensors: dict[str, Tensor], info) -> FlowModel:
        kept = {key: t for key, t in tensors.items() if ".blocks.27." not in key}
        return FlowModel("anima", kept, info, machine.arguments)

    machine.flows["anima.safetensors"] = shallow
    refused = pytest.raises(UnsupportedError, match=r"without 16 of its \d+ layers.*blocks\.27\.")
    with refused, opened(flows / "anima.safetensors"):
        pass


def test_a_family_that_the_program_has_no_engine_for_is_refused_before_anything_is_loaded(
    machine: Machine, flows: Path, tmp_path: Path
) -> None:
    path = tiny.save(tmp_path / "lumina.safetensors", tiny.weights("lumina-2", width=16))
    with (
        open_base(path, "") as base,
        pytest.raises(UnsupportedError, match="is Lumina 2, which this WebUI does not run"),
    ):
        ProgramModels().latent_space(base)
    assert machine.loads == []
