"""An extension of our own for a real WebUI: runs its models within it, and says what came out as JSON.

The test of the real WebUI puts it beside the extension as ``scripts/probe.py``; the test reads the answers.
"""

import hashlib
import importlib
import inspect
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from modules import call_queue, script_callbacks, sd_models, shared

from lib_transfer.errors import CancelledError
from lib_transfer.evaluation import Question, evaluate
from lib_transfer.evaluation.files import updates_of
from lib_transfer.formats.adapter_file import open_adapter
from lib_transfer.library.base import open_base
from lib_transfer.linalg.factors import Factors
from lib_transfer.models import applied
from lib_transfer.update import Update
from lib_transfer.webui.hosts.abilities import ProgramModels
from lib_transfer.webui.hosts.running import borrowed

SIZE = (64, 64)


class Count:
    """Progress that counts, and stops after ``most`` runs."""

    def __init__(self, most=10**9):
        self.total = self.done = 0
        self.most = most

    def start(self, total, what):
        self.total = total

    def step(self, what):
        self.done += 1

    def cancelled(self):
        return self.done >= self.most


def state():
    """What a person would notice if it were changed."""
    model = shared.sd_model  # on A1111, waits for the load that begins with the program
    return {
        "options": hashlib.sha256(repr(sorted(shared.opts.data.items())).encode()).hexdigest(),
        "loaded": Path(model.sd_checkpoint_info.filename).name if hasattr(model, "sd_checkpoint_info") else None,
        "parameters": repr(getattr(sd_models.model_data, "forge_loading_parameters", None)),
        "random": {
            name: hashlib.sha256(repr(held).encode()).hexdigest()
            for name, held in (
                ("torch", torch.get_rng_state().tolist()),
                ("numpy", [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()]),
                ("python", random.getstate()),
            )
        },
    }


def digest():
    """SHA-256 of every weight of the loaded model."""
    model, found = sd_models.model_data.sd_model, hashlib.sha256()
    if hasattr(model, "forge_objects"):
        # The times beside it follow the last picture's shift, which a model that was loaded anew has not seen.
        parts = [model.forge_objects.unet.model.diffusion_model, model.forge_objects.clip.cond_stage_model]
    else:
        parts = [model]
    for part in parts:
        for name, tensor in part.state_dict().items():
            found.update(name.encode())
            found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def loaded_loras(*names):
    ones = [1.0] * len(names)
    load = importlib.import_module("networks").load_networks
    # Forge Neo takes no dimensions.
    more = [[None] * len(names)] if len(inspect.signature(load).parameters) > 3 else []
    load(list(names), ones, ones, *more)


def is_seen_by_gradients(name):
    """Whether a module is of the diffusion model: Forge runs text encoders, and Anima's adapter with them, without gradients."""
    return name.startswith("model.diffusion_model.") and ".llm_adapter." not in name


def adapters(body):
    """The adapter by our hooks and by the program's own loader, on the same input."""
    path, lora = Path(body["checkpoint"]), Path(body["lora"])
    before = state()
    with call_queue.queue_lock, open_base(path, "") as base, borrowed(SIZE) as open_model, open_model(base, 1) as model:
        with open_adapter(lora) as adapter:
            changes = updates_of(adapter, base)
        generator = torch.Generator().manual_seed(5)
        noised, times = torch.randn((1, *model.shape), generator=generator), torch.tensor([0.5])

        def run():
            return model.noise(noised, times, ["a cat on a roof"])

        plain, weights = run(), digest()
        with applied(model.places, changes):
            ours = run()
        after = digest()
        loaded_loras(lora.stem)
        theirs = run()
        loaded_loras()
        back = run()
        parts = {name: float((value - plain).norm()) for name, value in (("ours", ours), ("theirs", theirs))}
        pictures = torch.zeros((1, 3, SIZE[1], SIZE[0]))
        latents = model.encode(pictures)
        said = {
            "changes": len(changes),
            "text": sum(not is_seen_by_gradients(name) for name in changes),
            "lacking": [
                module.name
                for module in base.modules
                if module.name not in model.places
                and (module.position.part, module.position.block) not in base.architecture.idle
            ],
            "difference": float((ours - theirs).norm()),
            "movement": parts,
            "same_weights": weights == after == digest(),
            "same_prediction": torch.equal(plain, back),
            "latents": [list(latents.shape) == [1, *model.shape], bool(torch.equal(latents, model.encode(pictures)))],
            "pictures": list(model.decode(latents).shape),
        }
    return {**said, "before": before, "after": state()}


def gradients(body):
    """The slope of a prediction along an adapter's strength, by gradients and by a difference of two runs."""
    path, lora = Path(body["checkpoint"]), Path(body["lora"])
    before = state()
    with call_queue.queue_lock, open_base(path, "") as base, borrowed(SIZE) as open_model, open_model(base, 1) as model:
        with open_adapter(lora) as adapter:
            found = updates_of(adapter, base)
            changes = {
                n: change for n, change in found.items() if is_seen_by_gradients(n) and change.factors is not None
            }
        weights, claimed = digest(), model.differentiable
        # Of some families it is not said, so that it can be looked at here.
        model.differentiable = True
        generator = torch.Generator().manual_seed(5)
        noised, times = torch.randn((1, *model.shape), generator=generator), torch.tensor([0.5])
        along = torch.randn(noised.shape, generator=generator)

        def run(strength):
            with applied(model.places, changes, lambda _: strength):
                return (model.noise(noised, times, ["a cat on a roof"]).double() * along).sum()

        leaves = {n: Factors(c.factors.up.clone().requires_grad_(), c.factors.down) for n, c in changes.items()}
        trained = {n: Update(factors) for n, factors in leaves.items()}
        with applied(model.places, trained), torch.enable_grad():
            value = (model.noise(noised, times, ["a cat on a roof"], with_grad=True).double() * along).sum()
            back = torch.autograd.grad(value, [factors.up for factors in leaves.values()], allow_unused=True)
        slope = sum(
            float((gradient * factors.up).sum())
            for gradient, factors in zip(back, leaves.values(), strict=True)
            if gradient is not None
        )
        said = {
            "claimed": claimed,
            "reached": sum(gradient is not None for gradient in back),
            "of": len(back),
            "slope": slope,
            # Wide enough that the two runs differ by more than single precision rounds them.
            "difference": float(run(1.1) - run(0.9)) / 0.2,
            "same_prediction": abs(float(value) - float(run(1.0))) < 1e-4 * abs(float(value)),
            "same_weights": weights == digest(),
        }
    return {**said, "before": before, "after": state()}


def verified(body):
    """A LoRA and plain reuse verified; ``most`` runs at most, then it is interrupted."""
    source, target, lora = (Path(body[name]) for name in ("source", "target", "lora"))
    before, progress, began = state(), Count(body.get("most", 10**9)), time.monotonic()
    gains, stopped = {}, False
    with (
        call_queue.queue_lock,
        open_base(source, "") as of_source,
        open_base(target, "") as of_target,
    ):
        transferred = {"transferred": Path(body["transferred"])}
        question = Question(lora, transferred, inputs=body["number"], size=SIZE[0], steps=body["steps"])
        try:
            found = evaluate(question, of_source, of_target, ProgramModels(), progress)
            gains = {name: gain.share for name, gain in found.gains.items()}
        except CancelledError:
            stopped = True
    return {
        "gains": gains,
        "stopped": stopped,
        "runs": [progress.done, progress.total],
        "seconds": time.monotonic() - began,
        "before": before,
        "after": state(),
    }


def routes(_, app):
    def answer(work, body):
        return json.loads(json.dumps(work(body)))

    @app.post("/transfer-lora-probe/adapters")
    def _adapters(body: dict):
        return answer(adapters, body)

    @app.post("/transfer-lora-probe/gradients")
    def _gradients(body: dict):
        return answer(gradients, body)

    @app.post("/transfer-lora-probe/verified")
    def _verified(body: dict):
        return answer(verified, body)

    @app.post("/transfer-lora-probe/state")
    def _state(body: dict):
        return answer(lambda _: {**state(), "digest": digest()}, body)


script_callbacks.on_app_started(routes)
