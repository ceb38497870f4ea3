"""What the stand-ins of the programs need to load and run models: tiny UNets and text encoders with the programs' names.

As `modules/sd_models.py`, `modules/sd_models_xl.py` of A1111 1.9.4 and `modules/sd_models.py`, `backend/diffusion_engine` of
Forge have them; that real ones do so too is shown by the test of the real WebUI.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.webui.programs import Info, Program

UNET, TEXT = "model.diffusion_model.", "cond_stage_model."
ENGINES = ("StableDiffusion", "StableDiffusionXL", "Flux", "Chroma", "Anima", "Krea2", "ZImage", "Flux2")


def grown(root: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """``root`` with a module for every weight, at the path that its key says."""
    for key, tensor in tensors.items():
        path, _, leaf = key.rpartition(".")
        module = root
        for step in path.split("."):
            if step not in module._modules:
                module.add_module(step, nn.Module())
            module = module._modules[step]
        module.register_parameter(leaf, nn.Parameter(tensor.float(), requires_grad=False))
    for name, module in list(root.named_modules()):
        weight = module._parameters.get("weight")
        if weight is not None and weight.dim() in (2, 4) and "embedding" not in name:
            _replace(root, name, _layer(weight, module._parameters.get("bias")))
    return root


def _layer(weight: Tensor, bias: Tensor | None) -> nn.Module:
    if weight.dim() == 2:
        made: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    else:
        made = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=bias is not None)
    made.load_state_dict({"weight": weight} | ({"bias": bias} if bias is not None else {}))
    return made.requires_grad_(False)


def _replace(root: nn.Module, path: str, by: nn.Module) -> None:
    above, _, leaf = path.rpartition(".")
    root.get_submodule(above)._modules[leaf] = by


def said(root: nn.Module, x: Tensor) -> Tensor:
    """What a network says of ``x``: a part of it, and what its linear layers make of ones."""
    linear = [module for module in root.modules() if isinstance(module, nn.Linear)]
    total = torch.stack([module(torch.ones(module.in_features)).mean() for module in linear]).sum()
    return 0.5 * x + total


class Machine:
    """The loading of models in the stand-in of a program.

    Attributes:
        loads: names of the checkpoints that were read, in order.
        fails: names of those that cannot be loaded.
        before_read: is called once the last model was let go.
        flows: what builds the model of a checkpoint that is a flow, by its name.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.loads, self.fails = program, [], set()
        self.before_read: Callable[[], None] = lambda: None
        self.flows: dict[str, Callable[[dict[str, Tensor], Info], Any]] = {}
        self.active: list[Any] = []
        module = sys.modules["modules.sd_models"]
        program.opts.data |= {
            "CLIP_stop_at_last_layers": 1,
            "forge_additional_modules": [],
            "sd_checkpoint_hash": "before",
        }
        self.data = SimpleNamespace(sd_model=None)
        vars(module)["model_data"] = self.data
        parser = ModuleType("modules.prompt_parser")
        vars(parser)["SdConditioning"] = Prompts
        sys.modules["modules.prompt_parser"] = parser
        (self._forge if program.forge else self._a1111)(module)

    def close(self) -> None:
        """Take away what was added to ``sys.modules``."""
        for name in ("prompt_parser", "devices", "processing", "extra_networks", "sd_unet"):
            sys.modules.pop(f"modules.{name}", None)
        for name in ("backend.memory_management", "backend.loader", "backend.args", "backend"):
            sys.modules.pop(name, None)

    def _read(self, info: Info) -> dict[str, Tensor]:
        name = Path(info.filename).name
        if name in self.fails:
            raise RuntimeError(f"{name} cannot be loaded")
        self.loads.append(name)
        gc.collect()
        self.before_read()
        # As modules do that are made without their weights.
        torch.rand(1)
        return load_file(info.filename)

    # A1111

    def _a1111(self, module: Any) -> None:
        @contextlib.contextmanager
        def skip() -> Any:
            self.skipping = True
            yield
            self.skipping = False

        self.skipping = False
        vars(module).update(SkipWritingToConfig=skip, reload_model_weights=self.reload_model_weights)
        _module("devices", device="cpu", dtype_vae=torch.float32, unet_needs_upcast=False)
        vars(sys.modules["modules.devices"]).update(
            autocast=contextlib.nullcontext, without_autocast=contextlib.nullcontext
        )
        _module("processing", StableDiffusionProcessingTxt2Img=SimpleNamespace)
        _module("extra_networks", activate=lambda p, data: self.active.append(data))
        _module("sd_unet", apply_unet=lambda name: None)

    def start(self, info: Info) -> None:
        """The program has loaded this checkpoint, the person's choice."""
        self.program.select(info)
        if self.program.forge:
            self.data.forge_loading_parameters = {"checkpoint_info": info, "additional_modules": []}
            self.forge_model_reload()
        else:
            self.reload_model_weights(info=info)
        self.loads.clear()

    def reload_model_weights(self, sd_model: Any = None, info: Any = None) -> Any:
        held = self.data.sd_model
        if held is not None and held.sd_checkpoint_info is info:
            return held
        held = sys.modules["modules.shared"].sd_model = self.data.sd_model = None
        tensors = self._read(info)
        if not self.skipping:
            self.program.opts.data["sd_model_checkpoint"] = info.title
        self.program.opts.data["sd_checkpoint_hash"] = info.sha256
        model = grown(_A1111Model(), {k: t for k, t in tensors.items() if k.startswith((UNET, TEXT))})
        model.cond_stage_model = _Wrapper(model.cond_stage_model)
        model.sd_checkpoint_info = info
        sys.modules["modules.shared"].sd_model = self.data.sd_model = model
        return model

    # Forge

    def _forge(self, module: Any) -> None:
        self.data.sd_model, self.data.forge_hash = SimpleNamespace(fake=True), ""
        self.data.forge_loading_parameters = {}
        vars(module)["forge_model_reload"] = self.forge_model_reload
        memory = ModuleType("backend.memory_management")
        vars(memory).update(load_models_gpu=lambda models, memory_required: None, unload_all_models=lambda: None)
        # Forge Neo's arguments are the attributes of a class.
        self.arguments = type("dynamic_args", (), {"ref_latents": [], "last_extra_generation_params": {}})
        loader, arguments = ModuleType("backend.loader"), ModuleType("backend.args")
        vars(loader)["possible_models"] = [type(name, (), {}) for name in ENGINES]
        vars(arguments)["dynamic_args"] = self.arguments
        sys.modules["backend"], sys.modules["backend.memory_management"] = ModuleType("backend"), memory
        sys.modules["backend.loader"], sys.modules["backend.args"] = loader, arguments

    def forge_model_reload(self) -> tuple[Any, bool]:
        wanted = str(self.data.forge_loading_parameters)
        if self.data.forge_hash == wanted:
            return self.data.sd_model, False
        self.data.sd_model = None
        info = self.data.forge_loading_parameters["checkpoint_info"]
        tensors = self._read(info)
        self.program.opts.data["sd_checkpoint_hash"] = info.sha256
        if info.name in self.flows:
            self.data.sd_model = self.flows[info.name](tensors, info)
            self.data.forge_hash = wanted
            return self.data.sd_model, True
        unet = grown(nn.Module(), {k.removeprefix(UNET): t for k, t in tensors.items() if k.startswith(UNET)})
        text = grown(nn.Module(), {k.removeprefix(TEXT): t for k, t in tensors.items() if k.startswith(TEXT)})
        self.data.sd_model = _ForgeModel(unet, text, info)
        self.data.forge_hash = wanted
        return self.data.sd_model, True


def _module(name: str, **content: Any) -> None:
    made = ModuleType(f"modules.{name}")
    vars(made).update(content)
    sys.modules[f"modules.{name}"] = made


class Prompts(list[str]):
    def __init__(self, prompts: list[str], is_negative_prompt: bool = False, width: int = 0, height: int = 0) -> None:
        super().__init__(prompts)
        self.is_negative_prompt, self.size = is_negative_prompt, (width, height)


class _Wrapper(nn.Module):
    """``FrozenCLIPEmbedderWithCustomWords``."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped


class _A1111Model(nn.Module):
    """``LatentDiffusion``, as the program extends it."""

    parameterization = "eps"
    encoded_with = ()
    alphas_cumprod = torch.linspace(0.999, 0.005, 1000)

    def get_learned_conditioning(self, prompts: Prompts) -> Tensor:
        self.encoded_with = [*self.encoded_with, sys.modules["modules.shared"].opts.CLIP_stop_at_last_layers]
        return said(self.cond_stage_model, torch.zeros(1))

    def apply_model(self, x: Tensor, steps: Tensor, conditioning: Tensor) -> Tensor:
        return said(self.model, x) + conditioning


class Objects:
    """``ForgeObjects``."""

    def __init__(self, unet: Any, clip: Any, vae: Any = None) -> None:
        self.unet, self.clip, self.vae = unet, clip, vae

    def shallow_copy(self) -> Objects:
        return Objects(self.unet, self.clip, self.vae)


class _ForgeUNet(nn.Module):
    """``IntegratedUNet2DConditionModel``."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._modules |= inner._modules

    def forward(self, x: Tensor, steps: Tensor, context: Tensor, transformer_options: dict[str, Any]) -> Tensor:
        return said(self, x) + context


class _ForgeModel:
    """``backend.diffusion_engine.sd15.StableDiffusion``."""

    def __init__(self, unet: nn.Module, text: nn.Module, info: Info) -> None:
        alphas = torch.linspace(0.999, 0.005, 1000)
        predictor = SimpleNamespace(sigmas=((1 - alphas) / alphas).sqrt(), prediction_type="epsilon")
        k_model = SimpleNamespace(
            diffusion_model=_ForgeUNet(unet), predictor=predictor, computation_dtype=torch.float32
        )
        patcher = SimpleNamespace(model=k_model, load_device="cpu", memory_required=lambda shape: 0)
        encoders = SimpleNamespace(clip_l=text)
        self.forge_objects = Objects(patcher, SimpleNamespace(cond_stage_model=encoders))
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.sd_checkpoint_info, self.clip_skip = info, 0
        self.encoded_with: list[int] = []

    def set_clip_skip(self, number: int) -> None:
        self.clip_skip = number

    def get_learned_conditioning(self, prompts: Prompts) -> Tensor:
        self.encoded_with.append(self.clip_skip)
        return said(self.forge_objects.clip.cond_stage_model.clip_l, torch.zeros(1))
