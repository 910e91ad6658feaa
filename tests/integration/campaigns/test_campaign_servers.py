"""Campaigns that stream to Triton: sticky, within its slots, to the bit."""

from __future__ import annotations

import io
import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import psutil
import pytest

pytestmark = [pytest.mark.triton, pytest.mark.torch]

MODEL = "digest-of-four"


def digests(key: str) -> bytes:
    """What the model makes of a segment's sequence, computed here."""
    rng = random.Random(key)
    digest, rows = np.zeros((1, 2), np.int64), []
    for _ in range(20):
        update = np.array([[rng.randrange(100), 1]])
        digest = (17 * digest + update) % 8191
        rows.append(digest)
    file = io.BytesIO()
    np.save(file, np.array(rows, np.float32))
    return file.getvalue()


def assert_right(outputs: Path, number: int) -> None:
    found = [p for p in outputs.iterdir() if p.name != "manifest.jsonl"]
    assert len(found) == number
    assert all(path.read_bytes() == digests(path.name) for path in found)


def where(log: list[list[str]]) -> dict[str, Counter[str]]:
    """How often each unit was begun on which server."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, key, _, endpoint in log:
        if kind == "begin":
            found[key][endpoint] += 1
    return found


def most_at_a_time(log: list[list[str]]) -> Counter[str]:
    """Units that were on each server at the same time, at most."""
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for kind, _, _, endpoint in log:
        now[endpoint] += 1 if kind == "begin" else -1
        most[endpoint] = max(most[endpoint], now[endpoint])
    return most


def on(endpoints: list[str], slots: int = 1) -> str:
    return f"--campaign={json.dumps({'servers': endpoints, 'slots': slots})}"


def test_two_servers_are_sticky_and_never_over_their_slots(
    make_runs, rig, tell
) -> None:
    runs = make_runs("runs")
    servers = [rig.serve(MODEL), rig.serve(MODEL)]
    endpoints = [server.endpoint.grpc for server in servers]
    status = runs.finish(
        "stream", "60", on(endpoints), seconds=0.05, workers=4
    )
    assert status["done"] == 60
    assert_right(runs.manifest.parent, 60)
    assert most_at_a_time(runs.log()) == dict.fromkeys(endpoints, 1)
    first = where(runs.log())
    used = Counter(e for counts in first.values() for e in counts)
    tell(units=dict(used))
    assert min(used.values()) > 15

    for path in runs.manifest.parent.iterdir():
        if path != runs.manifest:
            path.unlink()  # so that they are done again
    status = runs.finish("stream", "60", on(endpoints[::-1]), workers=4)
    assert (status["done"], status["skipped"]) == (60, 0)
    assert all(sum(c.values()) == 2 for c in where(runs.log()).values())
    assert {k: set(c) for k, c in where(runs.log()).items()} == {
        k: set(c) for k, c in first.items()
    }

    rig.kill(servers[0])
    runs = make_runs("one is dead")
    status = runs.finish("stream", "6", on(endpoints, slots=4), workers=4)
    assert status["done"] == 6  # each failed there, and then went elsewhere
    assert_right(runs.manifest.parent, 6)


def test_what_was_streamed_is_the_same_after_kills(
    make_runs, rig, tell, monkeypatch
) -> None:
    runs = make_runs("runs")
    # Sequences of the dead keep their slots for a minute: have many.
    monkeypatch.setenv("MODEL", "digest")
    servers = on([rig.serve("digest").endpoint.grpc], slots=128)
    kills = 0
    for _ in range(3):
        process = runs.start("stream", "60", servers, seconds=0.1, workers=3)
        runs.await_log(runs.num_lines() + 12)
        everybody = runs.family(process)
        runs.kill(everybody)
        kills += 1
        process.wait(10)
        runs.assert_gone(everybody, 5)
    status = runs.finish("stream", "60", servers, workers=3)
    assert status["done"] + status["skipped"] == 60
    assert_right(runs.manifest.parent, 60)
    repeated = sum(runs.executions().values()) - 60
    tell(kills=kills, repeated=repeated)
    assert 0 < repeated <= kills * 6


def tritons(repository: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        told = " ".join(process.info["cmdline"] or ())
        if process.info["name"] == "tritonserver" and repository in told:
            found.append(process)
    return found


def test_each_worker_has_a_server_and_takes_it_along(
    make_runs, fault_models, tell
) -> None:
    runs = make_runs("runs")
    before = tritons(fault_models.root)
    own = f"--serve={fault_models.root}", '--campaign={"slots": 4}'
    process = runs.start("stream", "40", *own, seconds=0.1)
    runs.await_log(12)
    victim, _ = runs.workers(process)
    runs.kill([victim])
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["done"] == 40
    assert_right(runs.manifest.parent, 40)
    endpoints = {words[3] for words in runs.log()}
    assert len(endpoints) == 3  # two workers, and the one in place of one
    owners = {(words[2], words[3]) for words in runs.log()}
    assert len(owners) == 3
    tell(servers=len(endpoints))
    runs.await_that(lambda: tritons(fault_models.root) == before, 20)
