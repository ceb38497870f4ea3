"""Generations on the stand-ins of the programs: which hooks are called in which order, and which LoRA files are loaded.

As reference/hosts.md (sections 4 of part A, 2.1 and 4.2 of part B) gives them for A1111 1.9.4 and Forge. What a picture
would be made of is recorded instead of being painted.
"""

from __future__ import annotations

import inspect
import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
from safetensors import SafetensorError, safe_open

from tests.webui.conftest import ROOT
from tests.webui.programs import Info, Program, Script


@dataclass
class Network:
    """``network.NetworkOnDisk``."""

    name: str
    filename: str
    alias: str


@dataclass(frozen=True)
class Pass:
    """One sampling pass: what was in it."""

    checkpoint: str
    prompt: str
    loras: tuple[tuple[str, float, float], ...]  # file name, text encoder's weight, UNet's weight


@dataclass
class Processing:
    """``StableDiffusionProcessing``, as far as hooks see it."""

    program: Generations
    prompt: Any
    negative_prompt: Any = ""
    batch_size: int = 1
    n_iter: int = 1
    seed: int = 1
    override_settings: dict[str, Any] = field(default_factory=dict)
    extra_generation_params: dict[str, Any] = field(default_factory=dict)
    script_args: tuple[Any, ...] = (0, False)
    disable_extra_networks: bool = False
    comments: dict[str, int] = field(default_factory=dict)
    all_prompts: list[str] | None = None
    all_negative_prompts: list[str] | None = None
    infotexts: list[str] = field(default_factory=list)

    def comment(self, text: str) -> None:
        self.comments[text] = 1

    @property
    def sd_model(self) -> Any:
        return self.program.model

    def setup_prompts(self) -> None:
        several = self.batch_size * self.n_iter
        self.all_prompts = self.prompt if isinstance(self.prompt, list) else several * [self.prompt]
        self.all_negative_prompts = len(self.all_prompts) * [self.negative_prompt]
        self.main_prompt, self.main_negative_prompt = self.all_prompts[0], self.all_negative_prompts[0]


@dataclass
class Txt2Img(Processing):
    """``StableDiffusionProcessingTxt2Img``."""

    enable_hr: bool = False
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    hr_checkpoint_name: str | None = None
    all_hr_prompts: list[str] | None = None
    all_hr_negative_prompts: list[str] | None = None

    def setup_prompts(self) -> None:
        super().setup_prompts()
        if self.enable_hr:
            several = self.batch_size * self.n_iter
            self.all_hr_prompts = several * [self.hr_prompt or self.prompt]
            self.all_hr_negative_prompts = several * [self.hr_negative_prompt or self.negative_prompt]


class Generations:
    """What a program has for making pictures."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.passes: list[Pass] = []
        self.reported: list[str] = []
        self.model: Any = SimpleNamespace()  # Forge's FakeInitialModel: says nothing
        self.listed: dict[str, Network] = {}
        self.aliases: dict[str, Network] = {}
        self.forbidden: dict[str, int] = {}
        vars(sys.modules["networks"]).update(
            available_networks=self.listed,
            available_network_aliases=self.aliases,
            forbidden_network_aliases=self.forbidden,
            list_available_networks=self.list_networks,
        )
        sys.modules["modules.sd_models"].get_closet_checkpoint_match = self.checkpoint
        self.list_networks()
        self.script = self._load()
        self.scripts: list[Any] = [self.script]

    @property
    def models(self) -> Path:
        """The folder with those of checkpoints and LoRAs."""
        return self.program.folder / "models"

    def path(self, checkpoint: str) -> Path:
        return self.models / "Stable-diffusion" / checkpoint

    def choose(self, checkpoint: str) -> None:
        """As the person does in the page."""
        self.program.select(next(info for info in self.program.infos.values() if info.name == checkpoint))

    def copies(self) -> list[Path]:
        """Every LoRA that says it was transferred."""
        return sorted(path for path in self.program.loras.rglob("*.safetensors") if request_of(path))

    @property
    def last(self) -> tuple[tuple[str, float, float], ...]:
        """The LoRAs in the last pass."""
        return self.passes[-1].loras

    def generate(self, prompt: Any, box: bool = False, **options: Any) -> Processing:
        """One generation, from the press of the button on; ``p`` after it, with its pictures' parameters in it."""
        p = Txt2Img(self, prompt, script_args=(0, box), **options)
        with generation(self.program):
            p.infotexts = self.run(p)
        return p

    def _load(self) -> Any:
        """As ``load_scripts`` does: run the file, register every Script class in its namespace."""
        namespace = runpy.run_path(str(ROOT / "scripts" / "transfer_lora.py"), run_name="transfer_lora.py")
        [found] = [c for c in namespace.values() if inspect.isclass(c) and issubclass(c, Script)]
        script = found()
        assert script.show(False) is sys.modules["modules.scripts"].AlwaysVisible
        with gr.Blocks():
            controls = script.ui(False)
        script.args_from, script.args_to = 1, 1 + len(controls)
        return script

    def list_networks(self) -> None:
        self.program.listed += 1
        for kept in (self.listed, self.aliases, self.forbidden):
            kept.clear()
        for path in sorted(self.program.loras.rglob("*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    alias = (file.metadata() or {}).get("ss_output_name", path.stem)
            except Exception:
                alias = path.stem
            network = Network(path.stem, str(path), alias)
            self.listed[path.stem] = network
            if alias in self.aliases:
                self.forbidden[alias.lower()] = 1
            self.aliases[path.stem] = self.aliases[alias] = network

    def checkpoint(self, name: str) -> Info | None:
        return sys.modules["modules.sd_models"].checkpoint_aliases.get(name)

    def run(self, p: Processing) -> list[str]:
        """``process_images``; the infotexts of the pictures."""
        self._hooks("before_process", p)
        wanted = p.override_settings.get("sd_model_checkpoint")
        self._load_model(self.checkpoint(wanted) if wanted else self.program.select_checkpoint())
        p.setup_prompts()
        self._hooks("process", p)
        state = self.program.state
        if state.job_count == -1:
            state.job_count = p.n_iter
        first, pictures = self.model.sd_checkpoint_info, []
        for n in range(p.n_iter):
            state.skipped = False
            if state.interrupted or state.stopping_generation:
                break
            self._load_model(first)
            batch = slice(n * p.batch_size, (n + 1) * p.batch_size)
            p.prompts = p.all_prompts[batch]
            self._hooks("before_process_batch", p, prompts=p.prompts, batch_number=n)
            if len(p.prompts) == 0:
                break
            self._sample(p, batch)
            p.prompts = p.all_prompts[batch]
            pictures += [self._infotext(p, text) for text in p.prompts]
        return pictures

    def _sample(self, p: Processing, batch: slice) -> None:
        """Parse and activate, then the passes; the second one parses its own prompts, and has its own checkpoint."""
        parsed = [_parse(text) for text in p.prompts]
        hires = [_parse(text) for text in p.all_hr_prompts[batch]] if getattr(p, "enable_hr", False) else []
        self._pass(parsed)
        if hires:
            if p.hr_checkpoint_name not in (None, "Use same checkpoint"):
                self._load_model(self.checkpoint(p.hr_checkpoint_name))
            self._pass(hires)

    def _pass(self, parsed: list[tuple[str, list[list[str]]]]) -> None:
        checkpoint = Path(self.model.sd_checkpoint_info.filename).name
        text, tags = parsed[0]  # only the first prompt of a batch supplies networks
        self.passes.append(Pass(checkpoint, text, tuple(self._activate(tags))))

    def _activate(self, tags: list[list[str]]) -> Iterator[tuple[str, float, float]]:
        wanted = []
        for name, *rest in tags:
            named = dict(part.split("=", 1) for part in rest if "=" in part)
            weights = [float(part) for part in rest if "=" not in part]
            te = float(named.get("te", weights[0] if weights else 1.0))
            wanted.append((name, te, float(named.get("unet", weights[1] if len(weights) > 1 else te))))
        if any(self._network(name) is None for name, _, _ in wanted):
            self.list_networks()
        if self.program.forge and any(self._network(name) is None for name, _, _ in wanted):
            return  # the error that an unknown name raises leaves every other one unloaded
        for name, te, unet in wanted:
            network = self._network(name)
            if network is not None:
                yield Path(network.filename).name, te, unet

    def _network(self, name: str) -> Network | None:
        return (self.listed if name.lower() in self.forbidden else self.aliases).get(name)

    def _load_model(self, info: Info | None) -> None:
        assert info is not None
        self.model = SimpleNamespace(sd_checkpoint_info=info)

    def _hooks(self, name: str, p: Processing, **named: Any) -> None:
        for script in self.scripts:
            hook: Callable[..., None] | None = getattr(script, name, None)
            if hook is not None:
                hook(p, *p.script_args[script.args_from : script.args_to], **named)

    def _infotext(self, p: Processing, prompt: str) -> str:
        """``create_infotext``: texts with a comma, a colon or a line break are quoted as JSON."""
        said = {"Steps": 1, "Sampler": "Euler", "Seed": p.seed, **p.extra_generation_params}
        if getattr(p, "enable_hr", False) and p.all_hr_prompts[0] != prompt:
            said["Hires prompt"] = p.all_hr_prompts[0]
        return f"{prompt}\n" + ", ".join(f"{key}: {_quoted(str(value))}" for key, value in said.items())


def request_of(path: Path) -> str:
    """The request that a LoRA says it is the output of."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("transfer_lora.request", "")
    except SafetensorError:
        return ""


def target_of(path: Path) -> str:
    """The checkpoint that a copy is for."""
    return json.loads(request_of(path))["target"]["name"] + ".safetensors"


def _quoted(text: str) -> str:
    return json.dumps(text) if any(sign in text for sign in ",:\n") else text


def parameters(infotext: str) -> dict[str, str]:
    """``parse_generation_parameters``."""
    prompt, _, last = infotext.rpartition("\n")
    found = {"Prompt": prompt, "Negative prompt": "", "Hires prompt": "", "Hires negative prompt": ""}
    decoder = json.JSONDecoder()
    while last:
        key, _, rest = last.partition(": ")
        value, end = decoder.raw_decode(rest) if rest.startswith('"') else (rest.partition(", ")[0], None)
        found[key] = value
        last = rest[len(value) if end is None else end :].removeprefix(", ")
    return found


@contextmanager
def generation(program: Program) -> Iterator[None]:
    """The queue's lock and the state of one generation, as the pages and the API have them."""
    with program.queue:
        program.state.begin(job="task(x)")
        try:
            yield
        finally:
            program.state.end()


def _parse(prompt: str) -> tuple[str, list[list[str]]]:
    """``extra_networks.parse_prompt``: every tag is taken out, those of the Lora extension are given back."""
    found = re.findall(r"<(\w+):([^>]+)>", prompt)
    return re.sub(r"<\w+:[^>]+>", "", prompt), [rest.split(":") for kind, rest in found if kind in ("lora", "lyco")]
