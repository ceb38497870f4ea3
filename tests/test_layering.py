"""Who may import whom, and what nobody does: the table of DESIGN.md section 1, held against every file's syntax tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lib_transfer"

# Layer -> the layers below it that it may use. `top` is the package itself: `import lib_transfer`.
BASIC = {
    "errors",
    "formatting",
    "progress",
    "kinds",
    "lazy",
    "spelling",
    "version",
    "linalg",
    "update",
    "methods",
    "formats",
    "architecture",
}
BELOW_MODELS = {"storage", "library", "conversion", *BASIC}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "formatting": set(),
    "progress": {"errors", "formatting"},
    "kinds": set(),
    "lazy": set(),
    "linalg": {"lazy"},
    "update": {"linalg"},
    "methods": {"errors", "linalg", "update"},
    "spelling": set(),
    "formats": {"errors", "formatting", "kinds", "spelling", "linalg", "update"},
    "architecture": {"errors", "kinds", "spelling"},
    "storage": {"errors", "formats", "progress"},
    "library": {"storage", *BASIC},
    "conversion": {"library", "storage", *BASIC},
    "models": {"errors", "progress", "linalg", "update"},
    "evaluation": {"models", *BELOW_MODELS},
    "batches": {"evaluation", *BELOW_MODELS},
    "demo": BASIC,
    "api": {"batches", "evaluation", *BELOW_MODELS},
    "top": {"api", "batches", "models", "evaluation", *BELOW_MODELS},
    "cli": {"top", "api", "demo", "batches", "models", "evaluation", *BELOW_MODELS},
    "__main__": {"cli"},
    "webui": {"top", "api", "demo", "cli", "batches", "models", "evaluation", *BELOW_MODELS},
}
# Folder within webui -> the folders within webui that it may use. `app` puts everything together.
WEBUI: dict[str, set[str]] = {
    "host": set(),
    "hosts": {"host"},
    "shell": {"host"},
    "transfer": {"host", "shell"},
    "prompt": {"host", "shell", "transfer"},
    "batch": {"host", "shell", "transfer"},
    "compare": {"host", "shell", "transfer", "prompt"},
    "verify": {"host", "shell", "transfer"},
    "app": {"host", "hosts", "shell", "transfer", "prompt", "batch", "compare", "verify"},
}
# What is not ours, beside the standard library; the webui may import what its hosts bring.
THIRD_PARTY: dict[str, set[str]] = {
    "linalg": {"torch"},
    "update": {"torch"},
    "methods": {"torch"},
    "models": {"torch"},
    "evaluation": {"torch", "safetensors", "diffusers", "transformers", "tokenizers", "ftfy"},
    "formats": {"torch", "safetensors", "gguf"},
    "storage": {"torch", "safetensors"},
    "library": {"torch", "safetensors"},
    "conversion": {"torch", "safetensors", "matplotlib"},
    "batches": {"torch", "distributed"},
    "demo": {"torch"},
}
EXCEPTIONS = {("cli/ui.py", "webui")}
HOST = {"gradio", "modules", "modules_forge"}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def everything() -> list[Path]:
    """Also what the hosts run."""
    return [*sources(), *sorted((ROOT / "scripts").glob("*.py")), *sorted(ROOT.glob("*.py"))]


def layer_of(module: str) -> str:
    """The layer of a dotted name; of the package itself ``top``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "top"


def layer_of_file(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return "top" if first == "__init__.py" else first.removesuffix(".py")


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Every module that is imported anywhere in ``tree``, by its dotted name; ``package`` holds the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from lib_transfer import method` imports a layer; `from lib_transfer import transfer` the package.
            if module == "lib_transfer":
                yield from (f"lib_transfer.{a.name}" if is_layer(a.name) else module for a in node.names)
            else:
                yield module
        elif isinstance(node, ast.Call) and name_of(node.func) in ("import_module", "importlib.import_module"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def is_layer(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def name_of(node: ast.AST) -> str:
    """``a.b.c`` of an expression that is a dotted name, else an empty word."""
    if isinstance(node, ast.Attribute):
        inner = name_of(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def trespasses(relative: str, tree: ast.AST) -> list[str]:
    """Imports of ``relative``, a path within the package, that its layer does not allow."""
    path = PACKAGE / relative
    layer = layer_of_file(path)
    package = ".".join(path.relative_to(ROOT).parent.parts)
    found = []
    for module in imported(tree, package):
        if module.split(".")[0] == "lib_transfer":
            target = layer_of(module)
            if target != layer and target not in ALLOWED[layer] and (relative, target) not in EXCEPTIONS:
                found.append(f"{relative} imports {module}")
        elif layer != "webui" and module.split(".")[0] not in sys.stdlib_module_names | THIRD_PARTY.get(layer, set()):
            found.append(f"{relative} imports {module}")
    return found


def trespasses_in_webui(relative: str, tree: ast.AST) -> list[str]:
    """Imports of ``relative``, a path within ``webui``, that its folder does not allow; types count too."""
    folder = relative.split("/", maxsplit=1)[0]
    package = ".".join(("lib_transfer", "webui", *relative.split("/")[:-1]))
    found = []
    for module in imported(tree, package):
        parts = module.split(".")
        if parts[:2] == ["lib_transfer", "webui"]:
            target = parts[2] if len(parts) > 2 else "webui"
            if target != folder and target not in WEBUI[folder]:
                found.append(f"{relative} imports {module}")
    return found


def misdeeds(relative: str, tree: ast.AST) -> list[str]:
    """What no file does, whatever its layer."""
    found = [f"imports {m}" for m in imported(tree, "lib_transfer") if m.split(".")[0] in PICKLES]
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append("has a bare except")
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "os"):
            found += [f"imports {a.name}" for a in node.names if a.name in ("load", "system", "popen")]
        if isinstance(node, ast.Attribute) and name_of(node) in ("torch.load", "os.system", "os.popen"):
            found.append(f"uses {name_of(node)}")
        if isinstance(node, ast.Name) and node.id in ("eval", "exec", "__import__", "breakpoint"):
            found.append(f"uses {node.id}")
        if isinstance(node, ast.keyword) and node.arg in ("shell", "allow_pickle"):
            found.append(f"passes {node.arg}")
        if isinstance(node, ast.Name) and node.id == "print" and not speaks(relative):
            found.append("prints")
    return [f"{relative} {what}" for what in found]


def speaks(relative: str) -> bool:
    return relative.startswith("lib_transfer/cli/") or relative == "install.py"


def test_every_part_of_the_package_has_its_place_in_the_table() -> None:
    assert {layer_of_file(path) for path in sources()} <= set(ALLOWED)


def test_a_layer_imports_only_from_those_below_it() -> None:
    found = [t for p in sources() for t in trespasses(str(p.relative_to(PACKAGE).as_posix()), ast.parse(p.read_text()))]
    assert found == []


def test_every_folder_of_the_webui_has_its_place_in_the_table() -> None:
    files = [path.relative_to(PACKAGE / "webui") for path in (PACKAGE / "webui").rglob("*.py")]
    assert {path.parts[0] for path in files if len(path.parts) > 1} == set(WEBUI)
    assert [path for path in files if len(path.parts) == 1] == [Path("__init__.py")]


def test_a_folder_of_the_webui_imports_only_from_those_below_it() -> None:
    root = PACKAGE / "webui"
    found = [
        t
        for p in root.rglob("*.py")
        if p.parent != root
        for t in trespasses_in_webui(p.relative_to(root).as_posix(), ast.parse(p.read_text()))
    ]
    assert found == []


def test_every_view_has_the_same_files() -> None:
    for view in ("transfer", "batch", "compare", "verify"):
        files = {path.stem for path in (PACKAGE / "webui" / view).glob("*.py")}
        assert {"view", "form", "events", "work", "html"} <= files, view


@pytest.mark.parametrize(
    ("relative", "code"),
    [
        ("host/new.py", "from lib_transfer.webui.shell.jobs import Job"),
        ("hosts/running/new.py", "from lib_transfer.webui.compare.form import Scene"),
        (
            "shell/new.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lib_transfer.webui.compare import work",
        ),
        ("prompt/new.py", "from ..hosts.program import Program"),
        ("batch/new.py", "from lib_transfer import webui"),
        ("verify/new.py", "from lib_transfer.webui.app.tab import tab"),
    ],
)
def test_a_trespass_in_the_webui_is_seen(relative: str, code: str) -> None:
    assert trespasses_in_webui(relative, ast.parse(code))


@pytest.mark.parametrize("table", [ALLOWED, WEBUI], ids=["layers", "webui"])
def test_the_table_has_no_way_back(table: dict[str, set[str]]) -> None:
    done: set[str] = set()
    while len(done) < len(table):
        ready = {layer for layer, below in table.items() if layer not in done and below <= done}
        assert ready, "the layers import each other in a circle"
        done |= ready


def test_only_the_webui_and_the_script_know_the_hosts() -> None:
    for path in everything():
        relative = path.relative_to(ROOT)
        if relative.parts[:2] != ("lib_transfer", "webui") and relative.parts[0] != "scripts":
            known = {m.split(".")[0] for m in imported(ast.parse(path.read_text()), "lib_transfer")}
            assert not known & HOST, relative


def test_nothing_unpickles_evaluates_prints_or_swallows_everything() -> None:
    assert [m for p in everything() for m in misdeeds(p.relative_to(ROOT).as_posix(), ast.parse(p.read_text()))] == []


@pytest.mark.parametrize(
    ("relative", "code"),
    [
        ("linalg/new.py", "from lib_transfer.errors import TransferError"),
        ("linalg/new.py", "import numpy"),
        ("methods/new.py", "def f():\n    from lib_transfer.formats import adapter"),
        ("formats/new.py", "from lib_transfer.architecture import modules"),
        ("formats/algorithms/new.py", "from ...conversion import plan"),
        ("architecture/new.py", "from lib_transfer import formats"),
        ("architecture/new.py", "import torch"),
        ("conversion/new.py", "from lib_transfer import transfer"),
        ("conversion/new.py", "import lib_transfer.cli.main"),
        ("conversion/new.py", "from lib_transfer.api import request"),
        ("cli/main.py", "from lib_transfer.webui import tab"),
        ("api.py", "import importlib\nimportlib.import_module('lib_transfer.webui.app.tab')"),
        ("errors.py", "from lib_transfer.version import VERSION"),
        ("progress.py", "import torch"),
    ],
)
def test_a_trespass_is_seen(relative: str, code: str) -> None:
    assert trespasses(relative, ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "list(map(exec, []))",
        "try:\n    pass\nexcept:\n    pass",
        "print('hello')",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
    ],
)
def test_a_misdeed_is_seen(code: str) -> None:
    assert misdeeds("lib_transfer/conversion/new.py", ast.parse(code))


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HEAVY = "[m for m in ('torch', 'numpy', 'safetensors', 'matplotlib', 'gradio', 'modules') if m in sys.modules]"


@pytest.mark.parametrize(
    "module", ["lib_transfer", "lib_transfer.methods", "lib_transfer.progress", "lib_transfer.architecture"]
)
def test_importing_it_imports_nothing_heavy(module: str) -> None:
    assert python(f"import sys, {module}; print({HEAVY})") == "[]"


ALL_WITHOUT_A_HOST = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("gradio", "modules", "modules_forge"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
for module in MODULES:
    importlib.import_module(module)
print(len(MODULES))
"""


def test_all_but_the_webui_works_without_a_host() -> None:
    dotted = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in sources()]
    wanted = [m for m in dotted if not m.startswith("lib_transfer.webui") and not m.endswith("__main__")]
    assert len(wanted) > 40
    assert python(f"MODULES = {wanted!r}\n{ALL_WITHOUT_A_HOST}") == str(len(wanted))
