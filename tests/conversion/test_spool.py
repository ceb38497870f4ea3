"""Large parts of an output wait in a file: the same tensors, little memory, nothing left behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from lib_transfer.storage.scratch import Spool

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def test_what_is_kept_is_what_was_given(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "made", in_memory=1000)
    given = {str(n): torch.randn(n + 1, 7).to(DTYPES[n % 3]) for n in range(60)} | {"empty": torch.zeros(0, 3)}
    kept = spool.keep(given)
    assert all(torch.equal(kept[name], tensor) and kept[name].dtype == tensor.dtype for name, tensor in given.items())
    assert kept["0"].data_ptr() == given["0"].data_ptr()
    assert kept["59"].data_ptr() != given["59"].data_ptr()
    del spool
    gc.collect()
    assert torch.equal(kept["59"], given["59"])


@pytest.mark.skipif(sys.platform == "win32", reason="there, the file has a name until it is closed")
def test_its_file_has_no_name(tmp_path: Path) -> None:
    spool = Spool(tmp_path, in_memory=0)
    kept = spool.keep({"a": torch.ones(9)})
    assert list(tmp_path.iterdir()) == []
    assert kept["a"].sum() == 9


def test_without_a_place_for_the_file_it_stays_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    one = torch.ones(9)
    assert Spool(tmp_path / "file" / "folder", in_memory=0).keep({"a": one})["a"] is one


def test_threads_do_not_mix_up_their_tensors(tmp_path: Path) -> None:
    spool, found = Spool(tmp_path, in_memory=0), {}

    def fill(number: int) -> None:
        found[number] = [spool.keep({"a": torch.full((n + 1,), float(number))})["a"] for n in range(50)]

    threads = [threading.Thread(target=fill, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(bool((t == number).all()) for number, tensors in found.items() for t in tensors)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's memory")
def test_memory_stays_small(tmp_path: Path) -> None:
    script = """
import sys, torch
from pathlib import Path
from lib_transfer.storage.scratch import Spool
def anonymous():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1])
spool = Spool(Path(sys.argv[1]), in_memory=2**20)
before = anonymous()
kept = [spool.keep({"a": torch.full((250_000,), float(n))})["a"] for n in range(200)]
assert all(float(t[-1]) == n for n, t in enumerate(kept))
print(anonymous() - before)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50_000  # kB, of 200 MB that are kept
