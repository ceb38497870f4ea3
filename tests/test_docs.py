"""What the README and the pages in ``docs/`` say, held against the code: commands, options, names, links and pictures."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest

import lib_transfer
import tests.__main__ as runner
from lib_transfer.architecture import architectures
from lib_transfer.architecture.names import Naming
from lib_transfer.architecture.unsupported_adapters import FAMILIES
from lib_transfer.architecture.unsupported_checkpoints import UNSUPPORTED
from lib_transfer.batches.report import COLUMNS
from lib_transfer.cli.main import COMMANDS, parser
from lib_transfer.formats.algorithms import ALGORITHMS
from lib_transfer.formats.peft_folder import CONFIG, WEIGHTS
from lib_transfer.formats.stores.wrappers import LEVELS
from lib_transfer.kinds import KINDS
from lib_transfer.library.adapters import EXTENSIONS
from lib_transfer.library.checkpoints import ENDINGS
from lib_transfer.methods import METHODS
from lib_transfer.webui.host.settings import settings

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
every = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

# What docs/formats.md calls each base and each algorithm; one that is added to the code needs a line here and there.
BASES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "2.x",
    "sdxl": "SDXL base",
    "sdxl-refiner": "refiner",
    "ssd-1b": "SSD-1B",
    "vega": "Segmind-Vega",
    "koala-700m": "KOALA 700M",
    "koala-1b": "and 1B",
    "sd3-medium": "Stable Diffusion 3",
    "sd3.5-medium": "3.5 medium",
    "sd3.5-large": "3.5 large",
    "flux-dev": "Flux dev",
    "flux-schnell": "schnell",
    "chroma": "Chroma",
    "cosmos-predict2-2b": "Cosmos-Predict2 2B",
    "anima": "Anima",
    "z-image": "Z-Image",
    "lumina-2": "Lumina 2",
    "flux2-klein-4b": "Flux.2 Klein 4B",
    "flux2-klein-9b": "Klein 9B",
    "flux2-dev": "and dev (base",
    "qwen-image": "Qwen-Image, Qwen-Image-Edit",
    "wan-1.3b": "Wan 2.1 1.3B",
    "wan-5b": "Wan 2.2 5B",
    "wan-14b": "Wan 14B",
    "wan-i2v-14b": "Wan 2.1 I2V 14B",
    "ernie-image": "Ernie-Image",
    "krea-2": "Krea 2",
    "auraflow": "AuraFlow, Pony V7",
}
ALGORITHM_WORDS = {
    "lora": "LoRA, LoCon",
    "loha": "LoHa",
    "lokr": "LoKr",
    "dora": "DoRA",
    "ia3": "(IA)³",
    "glora": "GLoRA",
    "norm": "`w_norm`",
    "full": "`.diff`",
    "boft": "BOFT",
    "oft": "OFT",
    "peft-oft": "PEFT",
    "replacement": "`.set_weight`",
}


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page that are marked with this language ("" for none)."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path, program: str) -> list[list[str]]:
    """The arguments of every command line of ``program`` on a page, in its blocks and in running text."""
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", prose(page))
    found = [line.removeprefix(program) for line in lines if line == program or line.startswith(f"{program} ")]
    return [shlex.split(rest, comments=True) for rest in found]


def subcommand(name: str) -> argparse.ArgumentParser:
    """The parser of one command."""
    [choice] = [action for action in parser(name)._actions if isinstance(action, argparse._SubParsersAction)]
    command = choice.choices[name]
    assert isinstance(command, argparse.ArgumentParser)
    return command


def options(of: argparse.ArgumentParser) -> set[str]:
    """Its long options, but for ``--help``."""
    return {flag for action in of._actions for flag in action.option_strings if flag.startswith("--")} - {"--help"}


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@every
def test_command_lines_are_understood(page: Path) -> None:
    for arguments in commands(page, "python -m lib_transfer"):
        if arguments:
            parser(arguments[0]).parse_args(arguments)


@every
def test_the_test_command_knows_its_arguments(page: Path) -> None:
    for arguments in commands(page, "python3 -m tests"):
        assert not arguments or arguments[0] in {"demo", *(name for name, _ in runner.STEPS)}


def test_the_columns_of_a_batch_that_are_explained_are_there() -> None:
    told = (DOCS / "command-line.md").read_text().partition("## batch")[2].partition("## verify")[0]
    for column in ("modules", "written", "tensors", "tensors_carried", "lost", "energy_kept", "unmeasured"):
        assert column in COLUMNS and f"`{column}`" in told, column


def test_the_readme_has_the_two_commands() -> None:
    lines = "\n".join(blocks(PAGES[0], "")).splitlines()
    assert "python3 -m tests" in lines
    assert "python3 -m tests demo" in lines


def test_benchmarks_have_the_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.benchmarks import __main__ as benchmarks

    monkeypatch.setattr("sys.argv", ["benchmarks", "--help"])
    with pytest.raises(SystemExit):
        benchmarks.main()
    told = capsys.readouterr().out
    words = {word for page in PAGES for line in commands(page, "python -m tests.benchmarks") for word in line}
    assert {"quality", "--batch"} <= words
    assert [word for word in words if not word.isdigit() and word not in told] == []


def test_every_option_is_described() -> None:
    page = (DOCS / "command-line.md").read_text()
    for name in COMMANDS:
        assert f"python -m lib_transfer {name}" in page
        assert {option for option in options(subcommand(name)) if option not in page} == set(), name


def test_a_default_that_is_told_is_one() -> None:
    for name in COMMANDS:
        assert not re.search(r"\(default:?\s*\)", subcommand(name).format_help()), name


@every
def test_every_option_exists(page: Path) -> None:
    known = options(parser(None)).union(*(options(subcommand(name)) for name in COMMANDS))
    others = {
        "--help",
        "--check",
        "--webui",
        "--webui-extension",
        "--webui-models",
        "--webui-modules",
        "--webui-python",
        "--prompt",
        "--batch",
        "--quick",
        "--seed",
        "--pairs",
        "--architecture",
        "--rounds",
    }  # of pytest, ruff, benchmarks
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text())) - known - others == set()


@every
def test_links_and_pictures_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", page.read_text())
    for link in ("".join(pair) for pair in links):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.is_file(), link
        assert not anchor or anchor in anchors(goal), link


def test_every_page_is_linked_from_the_readme() -> None:
    readme = PAGES[0].read_text()
    assert [page.name for page in PAGES[1:] if f"](docs/{page.name}" not in readme] == []


@every
def test_examples_use_names_that_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lib_transfer":
                assert hasattr(lib_transfer, node.attr), node.attr


def test_every_public_name_is_described_as_it_is() -> None:
    page = (DOCS / "python-api.md").read_text()
    assert [name for name in lib_transfer.__all__ if not name.startswith("_") and f"`{name}" not in page] == []
    calls = re.findall(r"^\| `(\w+\(.*?\))` \|", page, re.MULTILINE)
    assert calls
    for call in calls:
        [function] = ast.parse(f"def {call}: ...").body
        assert isinstance(function, ast.FunctionDef)
        said = function.args
        names = [
            a.arg for a in [*said.posonlyargs, *said.args, *said.kwonlyargs, *filter(None, [said.vararg, said.kwarg])]
        ]
        assert names == list(inspect.signature(getattr(lib_transfer, function.name)).parameters), call


def test_tables_name_everything_there_is() -> None:
    formats, methods = (DOCS / "formats.md").read_text(), (DOCS / "methods-and-evidence.md").read_text()
    assert {a.id for a in architectures()} == BASES.keys()
    assert {re.sub("^dora-.*", "dora", a.id) for a in ALGORITHMS} == ALGORITHM_WORDS.keys()
    assert [words for words in [*BASES.values(), *ALGORITHM_WORDS.values()] if words not in formats] == []
    assert [method.id for method in METHODS if f"| `{method.id}`" not in methods] == []
    for method in METHODS:
        assert f"`{method.formula}`" in methods or method.id == "rotation"


def listed(page: str, head: str, tail: str = ".") -> set[str]:
    """What a paragraph lists that begins with ``head`` and ends with ``tail``."""
    paragraph = next(text for text in page.split("\n\n") if text.startswith(head))
    assert paragraph.endswith(tail)
    return {item.strip(" `") for item in " ".join(paragraph.split())[len(head) : -len(tail)].split(",")}


def test_the_lists_of_names_and_kinds_are_those_of_the_code() -> None:
    page = (DOCS / "formats.md").read_text()
    namings = {naming for architecture in architectures() for naming in architecture.namings}
    prefixes = {naming.prefix for naming in namings if isinstance(naming, Naming)} - {""}
    assert listed(page, "Names begin with", ", or with the path itself.") == prefixes
    families = {family.what.partition(" ")[2].removesuffix(" checkpoint") for family in UNSUPPORTED}
    assert listed(page, "Diffusion models that are recognised and not supported yet:") == families
    head = "Models that there are LoRAs for and that are not supported yet:"
    assert listed(page, head) == {family.title for family in FAMILIES}
    kinds = {kind.title.partition(" ")[2] for kind in KINDS if kind.role == "other"}
    assert listed(page, "Other kinds of files are named as what they are:") == kinds
    [levels] = re.findall(r"the levels\n(.*?) wherever they stand", page, re.DOTALL)
    assert set(re.findall("`(.*?)`", levels)) == LEVELS.keys()


def test_the_forms_of_checkpoints_are_those_of_the_code() -> None:
    page = (DOCS / "formats.md").read_text()
    forms = set(re.findall(r"^\| (`\.\w+`(?:, `\.\w+`)*|diffusers folder) \| .* \|$", page, re.MULTILINE))
    endings = {ending for form in forms for ending in re.findall(r"\.\w+", form)}
    assert endings == {*ENDINGS, *EXTENSIONS}
    assert "diffusers folder" in forms
    assert all(f"`{name}`" in page for name in (CONFIG, WEIGHTS[0]))


def test_every_setting_of_the_webui_is_described() -> None:
    page = (DOCS / "webui.md").read_text()
    own = [setting.label for setting in settings() if not setting.label.startswith("Default ")]
    assert [label for label in own if f"| {label} |" not in page] == []


def test_the_box_below_the_prompt_is_described() -> None:
    source = (ROOT / "lib_transfer" / "webui" / "prompt" / "infotext.py").read_text()  # it needs gradio
    box = re.search(r'^BOX = "(.+)"$', source, re.MULTILINE)
    assert box is not None
    assert f"**{box[1]}**" in (DOCS / "webui.md").read_text()


def test_every_folder_is_described() -> None:
    page = (DOCS / "how-it-works.md").read_text()
    folders = [path.parent.name for path in (ROOT / "lib_transfer").glob("*/__init__.py")]
    assert [name for name in folders if f"`{name}/`" not in page] == []
