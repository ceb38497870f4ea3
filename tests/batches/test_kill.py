"""Killed at any moments and resumed, a batch ends with the bytes of an undisturbed one; two at once make each file once."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.batches import shelf
from tests.batches.conftest import World
from tests.waiting import HANG

KILLS, LORAS = 20, 6

# One process with torch loaded forks a batch per round, so that a round takes milliseconds, not seconds. Batches of one
# series share a folder and a cache: each goes on where the last one was killed.
PARENT = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    from tests.batches.conftest import World
    from tests.batches.steps import contents, go, look
    torch.set_num_threads(1)
    checkpoints, loras, place, kills, seed = sys.argv[1:]
    loras, place = Path(loras), Path(place)
    random.seed(int(seed))

    def once(cache, out):
        world = World(Path(checkpoints), cache)
        planned = look(world, loras, output=out)
        # Groups of three or so: some are published, one is at work, others wait.
        outcomes = go(world, planned, memory=60_000)
        assert {o.status for o in outcomes.values()} <= {"written", "already done"}, outcomes

    def start(*where):
        child = os.fork()
        if child == 0:
            try:
                once(*where)
            finally:
                os._exit(sys.exc_info()[0] is not None)
        return child

    def ended(child):
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    def folder(name):
        (place / name).mkdir()
        return place / f"{name}-cache", place / name

    def whole(out):
        return {name: data for name, data in contents(out).items() if not name.endswith(".part")}

    def one_more(out, took):
        "Wait for one more output, and then a little."
        before, limit = len(contents(out)), time.monotonic() + 2 * took
        while len(contents(out)) == before and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.01))

    undisturbed = folder("undisturbed")
    once(*undisturbed)  # also fills what a process looks up once, so that the children begin with the work
    expected = contents(undisturbed[1])
    began = time.monotonic()
    assert ended(start(*folder("measured"))) == 0
    took = time.monotonic() - began
    done, series, midway = 0, 0, 0
    # Also until one came midway: how fast a child is depends on what else the machine does.
    while done < int(kills) or not midway:
        series += 1
        where = folder(f"series-{series}")
        while done < int(kills) or not midway:
            child = start(*where)
            if done % 2:
                time.sleep(random.uniform(0, 0.9) * took)
            else:
                one_more(where[1], took)
            os.kill(child, signal.SIGKILL)
            killed = ended(child) == -signal.SIGKILL
            done += killed
            there = whole(where[1])
            assert there.items() <= expected.items(), series
            midway += killed and 0 < len(there) < len(expected)
            if not killed:
                break
        assert ended(start(*where)) == 0
        assert whole(where[1]) == expected, series

    for number in range(2):
        where = folder(f"two-{number}")
        both = [start(*where), start(*where)]
        assert [ended(child) for child in both] == [0, 0]
        assert contents(where[1]) == expected
    print(len(expected), done, midway)
"""


def test_kill_9_at_twenty_random_moments_and_two_at_once(world: World, tmp_path: Path) -> None:
    loras = tmp_path / "Lora"
    for number in range(LORAS):
        shelf.sound(loras, f"{number % 2}/style-{number}", number)
    arguments = [world.checkpoints, loras, tmp_path, KILLS, seed := random.randrange(10**6)]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PARENT), *map(str, arguments)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-3000:]}"
    outputs, kills, midway = map(int, done.stdout.split())
    assert outputs == LORAS
    assert kills >= KILLS
    assert midway > 0, f"seed {seed}"
