"""B9: does a stream ever see another one's samples?

Clients, each a process with several sequences at a time, stream through one
snapshotter. Each sequence sends its own number and counts its updates; the
model answers with sum, smallest and largest value of the window that the
server remembers, so that one foreign sample shows. Meanwhile, at moments that
the seed decides,

* clients are killed (SIGKILL) and others take their place,
* all connections are reset,
* sequences pause for longer than ``max_sequence_idle_microseconds``,
* and all clients call their sequences 1, 2, 3, ..., as programs do that
  count their streams.

In turns, several times over: InferenceClient with ``replay=True``, NVIDIA's
client with the same ids, and NVIDIA's client with random ids. Without
recovery, a failed sequence is begun again, as another one.

    right        answers as they have to be
    cross        answers with a value of another sequence
    window       answers of the right sequence, but not of its last updates
    lost         updates without an answer, of clients that were alive
    failed       sequences that ended before their time
    recovered    times that a sequence's state was rebuilt

The exit status is 1 if one of InferenceClient's answers was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import (
    circumstances,
    make_parser,
    pin,
    pinned_server,
    split_cores,
    write_json,
)
from _safety_clients import (
    KERNEL_SIZE,
    KINDS,
    MODEL,
    OUTPUT,
    STRIDE,
    Count,
    Orders,
)

from hermes.aeriel.testing import FaultyProxy
from hermes.quiver import ModelRepository, Platform

OURS = "client"
IDLE = 1.0  # seconds
# A client that is told to end finishes its sequences; that takes no longer.
PATIENCE = 90.0
COUNTED = [*(count.name.lower() for count in Count), "kills", "drops", "stuck"]


class Facts(torch.nn.Module):
    """Sum, smallest and largest value of each channel."""

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """(batch, 2, 32) -> (batch, 3, 2)."""
        facts = window.sum(-1), window.amin(-1), window.amax(-1)
        return torch.stack(facts, 1)


def export(root: Path, num_slots: int) -> None:
    """The ensemble, and a snapshotter that forgets soon."""
    repository = ModelRepository(root)
    model = repository.add("facts", Platform.ONNX)
    model.export_version(
        Facts(),
        input_shapes={"window": (None, 2, KERNEL_SIZE)},
        output_names=[OUTPUT],
    )
    ensemble = repository.add(MODEL, Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(
        model.inputs["window"], STRIDE, streams_per_gpu=num_slots
    )
    ensemble.add_output(model.outputs[OUTPUT])
    ensemble.export_version(None)
    snapshotter = repository.models["snapshotter"]
    batching = snapshotter.config.sequence_batching
    batching.max_sequence_idle_microseconds = int(1e6 * IDLE)
    snapshotter.write_config()


class Client:
    """A process, and what it has counted."""

    def __init__(self, orders: Orders) -> None:
        self._shape = orders.num_sequences, len(Count)
        self._counts = orders.counts
        np.zeros(self._shape, np.int64).tofile(orders.counts)
        script = Path(__file__).with_name("_safety_clients.py")
        self._process = subprocess.Popen(
            [sys.executable, script, json.dumps(dataclasses.asdict(orders))],
            stdin=subprocess.PIPE,
        )

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()

    def finish(self, deadline: float) -> bool:
        """Let it end its sequences; returns whether it did."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        self._process.stdin.close()
        try:
            return (
                self._process.wait(max(0.0, deadline - time.monotonic())) == 0
            )
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False

    def counted(self) -> Counter[str]:
        """What it has counted so far."""
        rows = np.fromfile(self._counts, np.int64).reshape(self._shape)
        return Counter(
            {count.name.lower(): int(rows[:, count].sum()) for count in Count}
        )


class Crowd:
    """The clients of one kind, and what happens to them."""

    def __init__(
        self, kind: str, folder: Path, options: argparse.Namespace, seed: int
    ) -> None:
        self._kind = kind
        self._folder = folder
        self._options = options
        self._seed = seed
        self._rng = random.Random(seed)  # noqa: S311 - to be repeated
        self._number = 0
        self._events: Counter[str] = Counter()

    def run(self, proxy: FaultyProxy, seconds: float) -> Counter[str]:
        """Let them stream; returns what was counted."""
        clients = [
            self._start(proxy.address) for _ in range(self._options.clients)
        ]
        every = list(clients)
        try:
            self._wait_for_all(clients)
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                time.sleep(min(left, self._rng.expovariate(1.5)))
                if self._rng.random() < 0.4:
                    self._events["drops"] += 1
                    proxy.drop()
                    continue
                place = self._rng.randrange(len(clients))
                self._events["kills"] += 1
                clients[place].kill()
                clients[place] = self._start(proxy.address)
                every.append(clients[place])
            end = time.monotonic() + PATIENCE
            self._events["stuck"] = sum(not c.finish(end) for c in clients)
        finally:
            for client in every:
                client.kill()
        return sum((client.counted() for client in every), self._events)

    def _start(self, address: str) -> Client:
        self._number += 1
        return Client(
            Orders(
                kind=self._kind,
                address=address,
                number=self._number,
                num_sequences=self._options.sequences,
                seed=self._seed,
                idle=IDLE,
                counts=str(self._folder / f"{self._kind}-{self._number}"),
            )
        )

    def _wait_for_all(self, clients: list[Client]) -> None:
        """Nothing happens before all of them stream."""
        deadline = time.monotonic() + 60
        while not all(client.counted()["sequences"] for client in clients):
            if time.monotonic() > deadline:
                raise TimeoutError("the clients do not start")
            time.sleep(0.05)


def num_answers(counts: Counter[str]) -> int:
    """Answers that were looked at."""
    return sum(counts[n] for n in ("right", "cross_stream", "wrong_window"))


def tabulate(found: dict[str, Counter[str]]) -> str:
    """The table."""
    columns = {
        "right": "right",
        "cross": "cross_stream",
        "window": "wrong_window",
        "lost": "lost",
        "failed": "failed_sequences",
        "recovered": "recoveries",
        "kills": "kills",
        "drops": "drops",
        "pauses": "pauses",
    }
    widths = [max(6, len(name)) for name in columns]
    lines = [f"{'':20}", *(f"{kind:20}" for kind in found)]
    for (name, key), width in zip(columns.items(), widths, strict=True):
        cells = [name, *(str(counts[key]) for counts in found.values())]
        lines = [
            f"{line} {cell:>{width}}"
            for line, cell in zip(lines, cells, strict=True)
        ]
    return "\n".join(lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of each kind and round"
    )
    parser.add_argument("--clients", type=int, default=3, help="at a time")
    parser.add_argument(
        "--sequences", type=int, default=3, help="at a time in each client"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, 2.0
        options.clients = options.sequences = 2
    return options


def measure(options: argparse.Namespace) -> dict[str, Counter[str]]:
    """Let all kinds stream, in turns."""
    found: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    ours, theirs = split_cores()
    with contextlib.ExitStack() as opened:
        root = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        export(root, num_slots=options.clients * options.sequences)
        for turn in range(options.rounds):
            for kind, counts in found.items():
                print(f"round {turn + 1}: {kind} ...", file=sys.stderr)
                with (
                    tempfile.TemporaryDirectory() as folder,
                    pinned_server(root, [MODEL], theirs) as server,
                    FaultyProxy(server.endpoint) as proxy,
                ):
                    pin(ours)
                    crowd = Crowd(
                        kind, Path(folder), options, options.seed + turn
                    )
                    counts.update(crowd.run(proxy, options.seconds))
                pin(ours | theirs)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Let them stream, print and write; returns the exit status."""
    options = parse(arguments)
    cores, load_before = os.sched_getaffinity(0), os.getloadavg()[0]
    found = measure(options)
    figures: dict[str, Any] = {
        **circumstances(options.rounds, cores, load_before),
        "seed": options.seed,
        "seconds": options.seconds,
        "clients": options.clients,
        "sequences_per_client": options.sequences,
        "kinds": {
            kind: {
                "checked": num_answers(counts),
                **{name: counts[name] for name in COUNTED},
            }
            for kind, counts in found.items()
        },
    }
    print(tabulate(found))
    for kind, ids in KINDS.items():
        print(f"{kind}: {ids}; {found[kind]['stuck']} clients never ended")
    print(
        f"{options.rounds} rounds of {options.seconds:g} s, seed"
        f" {options.seed}; {options.clients} clients of {options.sequences}"
        f" sequences, as many slots;\n{len(cores)} cores; load average"
        f" {load_before:.1f} before, {figures['load_average'][1]:.1f} after"
    )
    write_json(options.json, figures)
    mine = found[OURS]
    wrong = mine["cross_stream"] + mine["wrong_window"] + mine["stuck"]
    return int(wrong > 0 or mine["right"] == 0)


if __name__ == "__main__":
    sys.exit(main())
