"""Every tensor of an adapter is carried or named with its reason, in every output of the program.

The files are built with the names and kinds of tensors that tools write; what of each is lost is written down by hand.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import lib_transfer
from lib_transfer.batches.plan import BatchPlan
from lib_transfer.batches.report import BatchReport
from lib_transfer.cli.batch_screen import _line
from lib_transfer.conversion.outcome import Outcome, summary_of
from lib_transfer.conversion.publish import TransferResult
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.decide import TransferSettings
from lib_transfer.library.index import AdapterFacts
from lib_transfer.webui.batch import html as batch_page
from lib_transfer.webui.batch.job import BatchJob
from lib_transfer.webui.transfer import html as page
from lib_transfer.webui.transfer.answer import Known, Ways, answer
from tests import tiny
from tests.balance import counted, in_csv, in_facts, in_words

Tensors = dict[str, Tensor]
Transfer = Callable[..., TransferResult]

BLOCK = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_"
NATIVE = "diffusion_model.input_blocks.4.1.transformer_blocks.0."
DOTTED = "unet.down_blocks.1.attentions.0.transformer_blocks.0."
WIDTH = 16  # of the second stage of the tiny SD1
PAIRS = [f"{attention}.to_{leaf}" for attention in ("attn1", "attn2") for leaf in "qkv"]


def drawn(*shape: int, size: float = 0.1) -> Tensor:
    return size * torch.randn(*shape)


def inputs(path: str) -> int:
    """How many inputs the projection of this path has; the text is 24 wide."""
    return 24 if path in ("attn2.to_k", "attn2.to_v") else WIDTH


def pair(
    name: str, out: int = WIDTH, into: int = WIDTH, *, ends: tuple[str, str] = ("lora_up.weight", "lora_down.weight")
) -> Tensors:
    return {f"{name}.{ends[0]}": drawn(out, 2), f"{name}.{ends[1]}": drawn(2, into)}


def kohya(count: int = 6) -> Tensors:
    made: Tensors = {}
    for path in PAIRS[:count]:
        name = BLOCK + path.replace(".", "_")
        made |= {**pair(name, into=inputs(path)), f"{name}.alpha": torch.tensor(1.0)}
    return made


def comfy_trainer() -> Tensors:
    """Factors for every weight, ``diff`` for those of norms, ``diff_b`` for every bias."""
    made: Tensors = {}
    for path in PAIRS:
        made |= {**pair(NATIVE + path, into=inputs(path)), f"{NATIVE}{path}.alpha": torch.tensor(1.0)}
    for path in ("attn1.to_out.0", "attn2.to_out.0"):
        made |= {**pair(NATIVE + path), f"{NATIVE}{path}.diff_b": drawn(WIDTH)}
    return made | {f"{NATIVE}norm{n}.{end}": drawn(WIDTH) for n in (1, 2, 3) for end in ("diff", "diff_b")}


def with_biases_for_all() -> Tensors:
    """As a tool that takes a bias for granted: SD1's queries, keys and values have none."""
    return comfy_trainer() | {f"{NATIVE}{path}.diff_b": drawn(WIDTH) for path in PAIRS}


def dora_of_diffusers() -> Tensors:
    """diffusers' export in kohya's names: magnitudes under another name than the factors."""
    return kohya() | {f"{BLOCK}{path}.lora_magnitude_vector".replace("attn", "other"): drawn(WIDTH) for path in PAIRS}


def peft_dora() -> Tensors:
    made: Tensors = {}
    for path in PAIRS:
        made |= pair(DOTTED + path, into=inputs(path), ends=("lora_B.weight", "lora_A.weight"))
        made |= {f"{DOTTED}{path}.lora_magnitude_vector": 1 + drawn(WIDTH), f"{DOTTED}{path}.lora_B.bias": drawn(WIDTH)}
    return made


def lycoris() -> Tensors:
    """One module of each algorithm, with alphas that mean nothing to some."""
    name = lambda path: BLOCK + path.replace(".", "_")  # noqa: E731
    loha = {f"hada_w{n}_{end}": drawn(*shape) for n in "12" for end, shape in (("a", (WIDTH, 2)), ("b", (2, WIDTH)))}
    lokr = {"lokr_w1": drawn(4, 4), "lokr_w2": drawn(4, 4)}
    ia3 = {"weight": drawn(WIDTH), "on_input": torch.tensor(0)}
    full = {"diff": drawn(WIDTH, WIDTH), "diff_b": drawn(WIDTH), "alpha": torch.tensor(1.0)}
    modules = {"attn1.to_q": loha, "attn1.to_k": lokr, "attn1.to_v": ia3, "attn1.to_out.0": full}
    made = {f"{name(path)}.{suffix}": t for path, tensors in modules.items() for suffix, t in tensors.items()}
    alphas = {f"{name(path)}.alpha": torch.tensor(1.0) for path in ("attn1.to_q", "attn1.to_k")}
    return made | alphas | {f"{name('attn1.to_out.0')}.other": drawn(2)}


def broken() -> Tensors:
    """Halves, lonely scales, unknown names, an unsupported algorithm, a shape that does not fit, a bundled embedding."""
    made = kohya()
    del made[f"{BLOCK}attn1_to_v.lora_down.weight"]
    made |= {f"{BLOCK}attn2_to_out_0.alpha": torch.tensor(1.0), "strange.thing": drawn(2), "strange.other": drawn(2)}
    made |= {f"{BLOCK}ff_net_2.dyn_up": drawn(2, 2), f"{BLOCK}ff_net_2.dyn_down": drawn(2, 2)}
    made |= pair(f"{BLOCK}attn1_to_out_0", into=WIDTH + 1)
    made |= {**pair("lora_unet_down_blocks_9_proj_in"), f"{BLOCK}attn1_to_q.diff": drawn(WIDTH, WIDTH)}
    return made | {f"bundle_emb.word.{end}": drawn(1, 24) for end in ("clip_l", "clip_l_out")}


def twice() -> Tensors:
    """One module under two names."""
    return kohya(3) | pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q")


def zeros() -> Tensors:
    return {key: t * 0 if key.endswith("up.weight") else t for key, t in kohya().items()}


def text_encoder_norms() -> Tensors:
    layer = "lora_te_text_model_encoder_layers_0_"
    return kohya() | {f"{layer}layer_norm1.{end}": drawn(24) for end in ("w_norm", "b_norm")}


# What is lost, by rotation and by reuse, as people read it.
CASES: dict[str, tuple[Callable[[], Tensors], str]] = {
    "kohya": (kohya, ""),
    "ComfyUI's trainer": (comfy_trainer, ""),
    "biases for layers without": (with_biases_for_all, "6 biases"),
    "diffusers' DoRA in kohya's names": (dora_of_diffusers, "6 magnitudes"),
    "PEFT's DoRA with biases": (peft_dora, "6 biases"),
    "LyCORIS": (lycoris, "1 tensor"),
    "broken": (broken, "4 modules (8 tensors), 1 difference, 1 scale, 2 tensors, 1 embedding (2 tensors)"),
    "one module twice": (twice, "1 module (2 tensors)"),
    "zeros": (zeros, ""),
}


def sorted_words(words: str) -> list[str]:
    return sorted(words.split(", ")) if words else []


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> lib_transfer.Runtime:
    return lib_transfer.Runtime(device="cpu", cache_folder=tmp_path_factory.mktemp("cache"), workers=1)


@pytest.fixture
def transfer(files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path) -> Transfer:
    def run(
        tensors: Tensors,
        method: str = "rotation",
        source: str = "sd1-source",
        target: Any = "sd1-target",
        **settings: Any,
    ) -> TransferResult:
        adapter = tiny.save(tmp_path / "style.safetensors", tensors)
        (tmp_path / "out").mkdir(exist_ok=True)
        ends = {"source": files[source], "target": files[target] if isinstance(target, str) else target}
        settings = {"threshold": 0.0, **settings} if method == "rotation" else settings
        request = lib_transfer.request(adapter, method=method, runtime=runtime, **ends, **settings)
        return lib_transfer.transfer(request, lib_transfer.Destination(folder=tmp_path / "out"), runtime=runtime)

    return run


def batch_of(outcome: Outcome) -> BatchReport:
    target = Checkpoint("target", Path("target.safetensors"))
    settings = TransferSettings("rotation", {})
    plan = BatchPlan(target, settings, {outcome.name: AdapterFacts()}, (), {}, frozenset(), 0)
    return BatchReport(plan, {outcome.name: outcome})


def shown(outcome: Outcome) -> str:
    """The result of a LoRA in the tab, as HTML."""
    return page.overview([(outcome, answer(outcome, Known(), Ways()))])


def plain(markup: str) -> str:
    """The text of a page, a line for every break."""
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<br>|</li>|</td>|</p>", "\n", str(markup))))


def tallies(result: TransferResult) -> dict[str, tuple[int, int, int]]:
    """What every output says: tensors of the file, carried ones, lost ones with a reason."""
    assert result.path is not None and result.report is not None
    with safe_open(result.path, "pt") as file:
        written = json.loads(file.metadata()["transfer_lora.report"])
    # A batch keeps the summary alone, and knows an output that was there already by its metadata.
    outcome = Outcome("style", "source", "target", "written", summary=summary_of(result.path), path=result.path)
    batch = batch_of(outcome)
    job = BatchJob(converts=True)
    job.report = batch
    found = {
        "report": in_facts(result.report.to_dict()),
        "text": in_words(result.report.to_text()),
        "metadata": in_facts(written),
        "batch JSON": in_facts(json.loads(batch.to_json())["adapters"][0]),
        "CSV": in_csv(batch.to_csv()),
        "details in the tab": in_words(
            plain(page.details(Outcome("style", "", "target", "written", report=result.report)))
        ),
    }
    in_lines = {
        "screen": (r", ([^,].*) not carried", _line(outcome).split(".safetensors")[0], _line(outcome)),
        "tab": (r"Not carried: (.*)\.", plain(shown(outcome)), plain(shown(outcome))),
        "batch table": (r", ([^,].*) not carried", plain(batch_page.table(job)), plain(batch_page.table(job))),
    }
    for name, (pattern, start, text) in in_lines.items():
        said = re.search(pattern, start)
        lost = counted(said[1]) if said else 0
        if lost:
            assert in_words(text) == found["report"], (name, text)
            reasons = [line for line in text.splitlines() if re.match(r"\s*\d+ [a-z]+(?: \(\d+ tensors\))?: \S", line)]
            assert sum(counted(line.partition(": ")[0]) for line in reasons) == lost, (name, text)
        found[name] = (*found["report"][:2], lost)
    return found


@pytest.mark.parametrize("method", ["reuse", "rotation"])
@pytest.mark.parametrize("case", CASES)
def test_every_output_accounts_for_every_tensor(case: str, method: str, transfer: Transfer) -> None:
    torch.manual_seed(3)
    make, lost = CASES[case]
    tensors = make()
    result = transfer(tensors, method)
    assert result.report is not None
    assert sorted_words(result.report.accounts.words) == sorted_words(lost)
    expected = (len(tensors), len(tensors) - counted(lost), counted(lost))
    told = tallies(result)
    assert told == dict.fromkeys(told, expected)


def test_no_share_is_given_where_the_size_of_a_loss_is_not_known(transfer: Transfer) -> None:
    """A magnitude without its factors has no size of its own; that of a module of another name is known."""
    result = transfer(dora_of_diffusers())
    assert result.path is not None and result.report is not None
    texts = [result.report.to_text(), plain(shown(Outcome("s", "", "t", "written", report=result.report)))]
    assert all("not known" in text and "100.0 %" not in text for text in texts)
    both = transfer(dora_of_diffusers() | pair("lora_unet_down_blocks_9_proj_in")).report
    assert both is not None
    assert both.totals.energy_kept is not None and 0.5 < both.totals.energy_kept < 0.95
    assert "at least" in both.verdict and "at most" in both.to_text()


def test_zeros_are_told_everywhere(transfer: Transfer) -> None:
    result = transfer(zeros())
    assert result.path is not None and result.report is not None
    outcome = Outcome("style", "", "target", "written", summary=summary_of(result.path), path=result.path)
    batch = batch_of(outcome)
    for text in (result.report.verdict, _line(outcome), batch.to_csv(), batch.to_json(), str(shown(outcome))):
        assert "changes nothing" in text, text


def test_a_file_most_of_which_does_not_fit_is_refused(transfer: Transfer) -> None:
    """By names or by shapes; half of it is not most of it."""
    fits, wrong = kohya(2), {**pair(f"{BLOCK}ff_net_2"), **pair("lora_unet_down_blocks_9_proj_in")}
    result = transfer({**fits, **wrong}, "reuse")
    assert result.report is not None and result.report.accounts.words == "2 modules (4 tensors)"
    more = {**fits, **wrong, **pair(f"{BLOCK}attn1_to_v", into=5)}
    with pytest.raises(
        lib_transfer.errors.MismatchError, match=r"3 of 5 modules .* for example lora_unet_down_blocks_9"
    ):
        transfer(more, "reuse")


def test_embeddings_that_nothing_else_goes_along_with_are_lost(
    files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    """The encoders are the same, but the threshold leaves nothing to put them beside."""
    adapter = tiny.save(tmp_path / "style.safetensors", {**kohya(1), "bundle_emb.word.clip_l": drawn(1, 24)})
    source, moved = files.tensors["sd1-source"], files.tensors["sd1-target"]
    weights = {key: moved[key] if key.startswith(tiny.UNET) else w for key, w in source.items()}
    ends = {"source": files["sd1-source"], "target": tiny.save(tmp_path / "target.safetensors", weights, torch.float16)}
    for threshold, words in ((0.0, ""), (1.0, "1 module (3 tensors), 1 embedding")):
        request = lib_transfer.request(adapter, runtime=runtime, threshold=threshold, **ends)
        assert lib_transfer.analyse(request, runtime=runtime).accounts.words == words
