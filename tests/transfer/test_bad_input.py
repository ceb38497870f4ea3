"""Bad inputs end to end (reference/trust.md section 8): a typed error that says what and what to do, and nothing written;
or what the row says instead. Files are made byte by byte; what the reader alone does with them is in ``tests/formats``."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import lib_transfer
from lib_transfer.errors import NumericError
from tests import forked, tiny
from tests.transfer import hosts

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
OTHER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"
KEY = f"{tiny.UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


def good() -> tiny.Weights:
    return {**tiny.factors(NAME, (8, 8)), **tiny.factors(OTHER, (8, 8), seed=1)}


def _raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _bytes(folder: Path) -> bytes:
    return tiny.save(folder / "good.tmp", good()).read_bytes()


def _one_nan(folder: Path, suffix: str, value: float = float("nan")) -> bytes:
    tensors = good()
    tensors[f"{NAME}.{suffix}"].view(-1)[0] = value
    return tiny.save(folder / "nan.tmp", tensors).read_bytes()


def _named(**tensors: tuple[int, ...]) -> Callable[[Path], bytes]:
    made = {key: torch.zeros(shape) for key, shape in tensors.items()}
    return lambda folder: tiny.save(folder / "named.tmp", made).read_bytes()


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def _beyond(folder: Path) -> bytes:
    huge = {f"{NAME}.lora_up.weight": torch.full((8, 2), 1e30), f"{NAME}.lora_down.weight": torch.full((2, 8), 1e30)}
    huge[f"{NAME}.alpha"] = torch.tensor(1e30)
    return tiny.save(folder / "huge.tmp", huge).read_bytes()


def _many() -> bytes:
    return _raw({f"{i:05}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_001)})


ADAPTERS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "1 empty": (lambda folder: b"", "too short|truncated|empty|bytes"),
    "1 no header": (lambda folder: bytes(8), "zeros"),
    "2 header longer than the file": (lambda folder: _raw({}, length=10_000), "header|end"),
    "2 header of 2^63": (lambda folder: _raw({}, length=2**63), "does not begin like"),
    "3 no JSON": (lambda folder: _raw(b"{ not json"), "header"),
    "3 nested": (lambda folder: _raw(b"[" * 200_000), "header"),
    "4 cut": (lambda folder: _bytes(folder)[:-7], "bytes|MB|cut|end|incomplete"),
    "5 trailing": (lambda folder: _bytes(folder) + b"x", "bytes"),
    "6 twice": (
        lambda folder: _raw(b'{"a":%s,"a":%s}' % ((json.dumps(ENTRY).encode(),) * 2), bytes(8)),
        "twice|more than once",
    ),
    "7 shape": (lambda folder: _raw({"a": {**ENTRY, "shape": [3]}}, bytes(8)), "shape|bytes"),
    "8 dtype": (lambda folder: _raw({"a": {**ENTRY, "dtype": "F7"}}, bytes(8)), "F7"),
    "9 a page": (lambda folder: b"<!DOCTYPE html><html>Login</html>", "HTML"),
    "9 a pointer": (lambda folder: b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS"),
    "9 a pickle": (lambda folder: b"\x80\x02}q\x00.", "pickle"),
    "9 an archive": (lambda folder: b"PK\x03\x04" + bytes(64), "archive"),
    "12 NaN in a factor": (lambda folder: _one_nan(folder, "lora_up.weight"), "lora_up.weight.*NaN"),
    "12 infinity": (lambda folder: _one_nan(folder, "lora_down.weight", float("inf")), "lora_down.weight.*infinity"),
    "12 NaN in alpha": (lambda folder: _one_nan(folder, "alpha"), "alpha.*NaN"),
    "13 alpha beyond float32": (_beyond, "beyond the range"),
    "16 a checkpoint": (_named(**{KEY: (8, 8)}), "full checkpoint"),
    "16 an embedding": (_named(emb_params=(4, 768)), "textual-inversion"),
    "16 a ControlNet": (_named(**{"control_model.input_hint_block.0.weight": (4, 4)}), "ControlNet"),
    "16 an IP-Adapter": (_named(**{"ip_adapter.1.to_k_ip.weight": (4, 4)}), "IP-Adapter"),
    "16 a VAE": (_named(**{"first_stage_model.decoder.conv_in.weight": (4, 4, 3, 3)}), "VAE"),
    "16 of a language model": (
        _named(**{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (2, 8)}),
        "language model",
    ),
    "17 only LoHa": (_named(**{f"{NAME}.hada_w1_a": (8, 2), f"{NAME}.hada_w1_b": (2, 8)}), "LoHa"),
    "17 half a PEFT module": (_named(**{"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": (2, 8)}), "without"),
    "20 too many": (lambda folder: _many(), "limit"),
}


def _fails(out: Path, run: Callable[[], Any], pattern: str) -> lib_transfer.TransferError:
    with pytest.raises(lib_transfer.TransferError, match=f"(?is){pattern}") as caught:
        run()
    error = caught.value
    assert error.message.strip().endswith((".", "?")), error.message
    assert error.exit_code in (1, 2)
    assert not out.exists() or list(out.iterdir()) == []
    return error


@pytest.mark.parametrize("row", ADAPTERS)
def test_adapters(row: str, transfer: Any, tmp_path: Path) -> None:
    make, pattern = ADAPTERS[row]
    path = tmp_path / "style.safetensors"
    path.write_bytes(make(tmp_path))
    _fails(tmp_path / "out", lambda: transfer(path, "sd1-source", "sd1-target"), pattern)


CHECKPOINTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "NaN": (lambda t: t[KEY].view(-1)[3:4].fill_(float("nan")), "attn1.to_q.weight.*NaN"),
    "infinity": (lambda t: t[KEY].view(-1)[3:4].fill_(float("-inf")), "attn1.to_q.weight.*infinity"),
    "quantised": (lambda t: t.update({f"{KEY}.absmax": torch.ones(1)}), "quantised"),
    "another model": (lambda t: [t.pop(key) for key in list(t) if "time_embed" in key], "time_embed.*missing"),
    "a refiner": (
        lambda t: t.update({f"{tiny.UNET}label_emb.0.0.weight": torch.ones(8, 8)}),
        "refiner|unknown|SDXL|not part",
    ),
}


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("row", CHECKPOINTS)
def test_checkpoints(row: str, side: str, files: tiny.Files, transfer: Any, tmp_path: Path) -> None:
    change, pattern = CHECKPOINTS[row]
    tensors = {key: w.clone() for key, w in files.tensors[f"sd1-{side}"].items()}
    change(tensors)
    bad = tiny.save(tmp_path / f"bad-{side}.safetensors", tensors)
    style = tiny.save(tmp_path / "style.safetensors", good())
    ends = {"source": files["sd1-source"], "target": files["sd1-target"], side: bad}
    error = _fails(tmp_path / "out", lambda: transfer(style, ends["source"], ends["target"]), pattern)
    assert bad.name in error.message


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: (path.unlink(), path.mkdir()), "folder|not a file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "not a|file"),
        (lambda path: (path.unlink(), path.symlink_to(path.name)), "link|exist|not a"),
    ],
    ids=["missing", "folder", "pipe", "link to itself"],
)
@pytest.mark.parametrize("which", ["adapter", "source", "target"])
def test_paths_that_are_no_files(
    which: str, change: Callable[[Path], Any], pattern: str, files: tiny.Files, transfer: Any, tmp_path: Path
) -> None:
    given = {"adapter": tiny.save(tmp_path / "style.safetensors", good())}
    given |= {end: files[f"sd1-{end}"] for end in ("source", "target")}
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"")
    change(bad)
    given[which] = bad
    error = _fails(tmp_path / "out", lambda: transfer(given["adapter"], given["source"], given["target"]), pattern)
    assert "bad.safetensors" in error.message


def test_broken_modules_are_listed_and_the_rest_goes_on(transfer: Any, tmp_path: Path) -> None:
    """Rows 14 and 15: up without down, a rank that disagrees, a shape that does not fit, an unknown name."""
    tensors = good()
    stem = NAME.removesuffix("attn1_to_q")
    tensors |= {f"{stem}attn1_to_v.lora_up.weight": torch.ones(8, 2), f"{stem}attn2_to_q.alpha": torch.tensor(1.0)}
    tensors |= {
        f"{stem}attn2_to_k.lora_up.weight": torch.ones(8, 2),
        f"{stem}attn2_to_k.lora_down.weight": torch.ones(3, 24),
    }
    tensors |= tiny.factors(f"{stem}attn1_to_out_0", (8, 9))
    tensors |= tiny.factors("lora_unet_down_blocks_7_attentions_0_proj_in", (8, 8))
    result = transfer(tiny.save(tmp_path / "style.safetensors", tensors), "sd1-source", "sd1-target")
    assert set(hosts.read(result.path).names) == {NAME, OTHER}
    text = result.report.to_text()
    for said in ("lora_up.weight without lora_down.weight", "ranks disagree", "A scale (alpha) without factors", "8x9"):
        assert said in text, said
    assert "No module of sd1-source.safetensors goes by this name" in text


@pytest.mark.parametrize("method", ["reuse", "rotation"])
def test_a_lora_of_zeros_and_an_alpha_of_zero(method: str, transfer: Any, tmp_path: Path) -> None:
    """Rows 13 and 35: it does nothing, says so, and is no error."""
    tensors = {key: t * 0 if key.endswith("up.weight") else t for key, t in good().items()}
    tensors[f"{OTHER}.alpha"] = torch.tensor(0.0)
    result = transfer(tiny.save(tmp_path / "style.safetensors", tensors), "sd1-source", "sd1-target", method=method)
    assert all(delta.norm() == 0 for delta in hosts.read(result.path).deltas().values())
    assert "alpha is 0: this module does nothing" in result.report.to_text()
    assert all(tensor.isfinite().all() for tensor in hosts.read(result.path).tensors.values())


@pytest.mark.parametrize("alpha", [1e9, 3e12])
def test_numbers_beyond_fp16_are_scaled_not_clipped(alpha: float, transfer: Any, tmp_path: Path) -> None:
    """Row 13: a power of two moves into alpha, and the host still gets the same change."""
    tensors = {**tiny.factors(NAME, (8, 8), alpha=alpha, size=10.0)}
    path = tiny.save(tmp_path / "style.safetensors", tensors)
    result = transfer(path, "sd1-source", "sd1-source", method="reuse", dtype="fp16")
    out = hosts.read(result.path)
    assert out.tensors[f"{NAME}.lora_up.weight"].dtype == torch.float16
    assert out.tensors[f"{NAME}.lora_up.weight"].isfinite().all()
    given = hosts.delta(hosts.LoraFile(path, tensors, {}, b"").names[NAME])
    assert (out.deltas()[NAME] - given).norm() <= 2e-3 * given.norm()


@pytest.mark.parametrize(
    ("source", "target", "decision"),
    [
        (torch.zeros(8, 8), torch.eye(8), "below threshold"),
        (torch.eye(8), torch.zeros(8, 8), "below threshold"),
        (torch.zeros(8, 8), torch.zeros(8, 8), "copied"),
        (torch.ones(8, 8), 2 * torch.ones(8, 8), "transferred"),
        (torch.eye(8), 2 * torch.eye(8), "transferred"),
    ],
    ids=["zeros in the source", "zeros in the target", "zeros in both", "one direction", "the identity"],
)
def test_degenerate_weights(
    source: torch.Tensor, target: torch.Tensor, decision: str, files: tiny.Files, transfer: Any, tmp_path: Path
) -> None:
    """Row 35: a weight of zeros spans nothing; repeated singular values are no reason to fail."""
    ends = [
        tiny.save(tmp_path / f"{end}.safetensors", {**files.tensors[f"sd1-{end}"], KEY: weight})
        for end, weight in (("source", source), ("target", target))
    ]
    style = tiny.save(tmp_path / "style.safetensors", good())
    for method in ("rotation", "prolora", "lora-x"):
        result = transfer(style, *ends, method=method, threshold=0.0)
        decisions = {m.name: m.decision for m in result.report.modules}
        assert decisions == {NAME: decision, OTHER: "transferred"}
        assert all(tensor.isfinite().all() for tensor in hosts.read(result.path).tensors.values())


@pytest.mark.parametrize(
    "stem",
    [
        "emoji \U0001f600 cat",
        "quotes ' \" ` $(x)",
        "line\nbreak",
        "cafe\u0301",
        "\u202eltr",
        "x" * 243,
        "a" + "\u732b" * 80,
        "CON",
        ".hidden",
        "-rf",
        "100%",
        "{lora}",
        "a\udce9b",
    ],
    ids=ascii,
)
def test_names_of_adapters(stem: str, files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path) -> None:
    """Row 23: it works, and the output has a clean name that both hosts can address."""
    path = tiny.save(tmp_path / "style.safetensors", good()).rename(tmp_path / f"{stem}.safetensors")
    request = lib_transfer.request(path, target=files["sd1-target"], method="reuse", runtime=runtime)
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.path is not None
    assert result.path.parent == tmp_path
    assert len(result.path.name.encode()) <= 200
    assert not set(result.path.name) & set('\n"<>|*?:\\/\u202e')
    assert hosts.read(result.path).metadata["ss_output_name"] == result.path.stem
    assert result.path.stem.endswith(request.request.hash8)
    result.report.to_text().encode()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "template", ["../{lora}", "/tmp/{lora}", "a/{lora}", "{lora}\0", "{nope}", "{lora", "..\\{lora}"]
)
def test_templates_stay_in_the_folder(
    template: str, files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    """Row 24."""
    folder = tmp_path / "in" / "out"
    folder.mkdir(parents=True)
    style = tiny.save(tmp_path / "style.safetensors", good())
    request = lib_transfer.request(style, target=files["sd1-target"], method="reuse", runtime=runtime)
    wanted = lib_transfer.Destination(folder=folder, template=template)
    _fails(folder, lambda: lib_transfer.transfer(request, wanted, runtime=runtime), "template")


def test_an_output_folder_that_is_not_there(files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path) -> None:
    """It is made where something is written, and only there."""
    style = tiny.save(tmp_path / "style.safetensors", good())
    none = tiny.save(tmp_path / "none.safetensors", tiny.factors("lora_unet_nowhere", (8, 8)))
    wanted = lib_transfer.Destination(folder=tmp_path / "missing" / "below")
    requests = [
        lib_transfer.request(path, target=files["sd1-target"], method="reuse", runtime=runtime)
        for path in (none, style)
    ]
    with pytest.raises(lib_transfer.TransferError):
        lib_transfer.transfer(requests[0], wanted, runtime=runtime)
    assert not (tmp_path / "missing").exists()
    result = lib_transfer.transfer(requests[1], wanted, runtime=runtime)
    assert result.path is not None
    assert result.path.parent == wanted.folder
    assert hosts.read(result.path).deltas()


def test_an_output_folder_that_cannot_be_made(files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path) -> None:
    style = tiny.save(tmp_path / "style.safetensors", good())
    request = lib_transfer.request(style, target=files["sd1-target"], method="reuse", runtime=runtime)
    for folder, pattern in ((style / "below", "cannot be made.*not a folder"), (style, "is not a folder")):
        wanted = lib_transfer.Destination(folder=folder)
        error = _fails(tmp_path / "no", lambda w=wanted: lib_transfer.transfer(request, w, runtime=runtime), pattern)
        assert error.hint


# What only a process of its own can show. It transfers a LoRA and prints the error's type and exit code.
CHILD = """
    import json, resource, signal, sys
    import lib_transfer
    from pathlib import Path
    style, target, out, cache, limit = sys.argv[1:]
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=Path(cache), workers=1)
    request = lib_transfer.request(style, target=target, method="reuse", runtime=runtime)
    if int(limit):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        lib_transfer.transfer(request, lib_transfer.Destination(folder=Path(out)), runtime=runtime)
    except lib_transfer.TransferError as error:
        print(type(error).__name__, error.exit_code, error)
"""


def _child(*arguments: object) -> str:
    [said] = forked.printed(textwrap.dedent(CHILD), arguments)
    return said


@pytest.mark.parametrize("limit", [64, 1024])
def test_a_full_disk(limit: int, files: tiny.Files, tmp_path: Path) -> None:
    """Row 28, with the size of files limited: in the header and in the middle of the data."""
    out = tmp_path / "out"
    out.mkdir()
    style = tiny.save(tmp_path / "style.safetensors", good())
    said = _child(style, files["sd1-target"], out, tmp_path / "cache", limit)
    assert said.startswith("StorageError 1 "), said
    assert list(out.iterdir()) == []


def test_a_folder_that_cannot_be_written(files: tiny.Files, tmp_path: Path) -> None:
    """Row 27. As root the permissions do not hold, so a child without root's rights runs it."""
    out = tmp_path / "out"
    out.mkdir()
    style = tiny.save(tmp_path / "style.safetensors", good())
    cache = tmp_path / "cache"
    cache.mkdir()
    out.chmod(0o555)
    if os.geteuid() != 0:
        said = _child(style, files["sd1-target"], out, cache, 0)
    else:
        drop = _DROP + textwrap.dedent(CHILD).replace("if int(limit):", "_drop()\nif int(limit):", 1)
        [said] = forked.printed(drop, (style, files["sd1-target"], out, cache, 0))
    out.chmod(0o755)
    assert said.startswith("StorageError 1 "), said
    assert "permission" in said.lower()
    assert list(out.iterdir()) == []


# Gives up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, which let root write anywhere (capset, version 3).
_DROP = """
import ctypes, struct
def _drop():
    header = struct.pack("Ii", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.capget(header, data)
    fields = list(struct.unpack("6I", data.raw))
    for i in range(2):
        fields[i] &= ~0b110
    assert libc.capset(header, struct.pack("6I", *fields)) == 0
"""


def test_an_adapter_that_changes_meanwhile(files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path) -> None:
    """Row 32: rewritten at a module of the middle, the result is discarded."""
    style = tiny.save(tmp_path / "style.safetensors", good())
    out = tmp_path / "out"
    out.mkdir()
    request = lib_transfer.request(style, source=files["sd1-source"], target=files["sd1-target"], runtime=runtime)

    class Rewrites:
        def start(self, total: int, what: str) -> None: ...

        def step(self, what: str) -> None:
            tiny.save(style, {**good(), "lora_unet_conv_in.alpha": torch.tensor(1.0)})

        def cancelled(self) -> bool:
            return False

    def run() -> object:
        return lib_transfer.transfer(
            request, lib_transfer.Destination(folder=out), runtime=runtime, progress=Rewrites()
        )

    _fails(out, run, "changed (during the transfer|while it was being read)")


def test_two_writers_of_one_output(files: tiny.Files, tmp_path: Path) -> None:
    """Row 31: processes race for one name; whoever comes late finds it done or is refused, and the file is whole."""
    out = tmp_path / "out"
    out.mkdir()
    style = tiny.save(tmp_path / "style.safetensors", good())
    racer = (style, files["sd1-target"], out, tmp_path / "c", 0)
    said = forked.printed(textwrap.dedent(CHILD), racer, racer)
    assert all(text == "" or text.startswith("OutputExistsError 2") for text in said), said
    (only,) = out.iterdir()
    assert hosts.addnet_hash(hosts.read(only)) == hosts.read(only).metadata["sshs_model_hash"]


def test_metadata_that_breaks_readers(transfer: Any, tmp_path: Path) -> None:
    """Row 21: a tag frequency that is not JSON would break A1111's card editor; the rest is carried as it is."""
    html = "<script>alert(1)</script>"
    metadata = {"ss_tag_frequency": "{not json", "ss_training_comment": html, "ss_datasets": "x" * 1_000_000}
    result = transfer(tiny.save(tmp_path / "style.safetensors", good(), None, metadata), "sd1-source", "sd1-target")
    out = hosts.read(result.path).metadata
    assert "ss_tag_frequency" not in out
    assert out["ss_training_comment"] == html
    assert out["ss_datasets"] == metadata["ss_datasets"]


def test_metadata_that_are_no_texts(transfer: Any, tmp_path: Path) -> None:
    """No host loads such a file; what is written from it loads, with all of them as texts."""
    path = tmp_path / "style.safetensors"
    content = tiny.save(tmp_path / "good.tmp", good()).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    odd = {"ss_network_dim": 3, "ss_tag_frequency": {"a": {"cat": 2}}, "ss_output_name": "style"}
    path.write_bytes(_raw({**json.loads(content[8:start]), "__metadata__": odd}, content[start:]))
    with pytest.raises(SafetensorError):
        load_file(path)
    told = lib_transfer.inspect(path)
    assert told["kind"] == "adapter"
    assert "2 of its metadata are no texts (ss_network_dim, ss_tag_frequency)" in told["notes"][0]
    result = transfer(path, "sd1-source", "sd1-target")
    out = hosts.read(result.path)
    assert set(out.deltas()) == {NAME, OTHER}
    assert all(isinstance(text, str) for text in out.metadata.values())
    assert json.loads(out.metadata["ss_tag_frequency"]) == {"a": {"cat": 2}}


def test_types_of_errors(transfer: Any, tmp_path: Path) -> None:
    """What callers tell apart."""
    path = tmp_path / "style.safetensors"
    path.write_bytes(_one_nan(tmp_path, "alpha"))
    with pytest.raises(NumericError) as caught:
        transfer(path, "sd1-source", "sd1-target")
    assert caught.value.hint
