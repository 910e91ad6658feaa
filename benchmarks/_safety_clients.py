"""The clients of state_safety.py: a process that streams until it is killed.

Each sequence says who it is: the first channel of its updates is its own
number, the second counts the updates. The model answers with sum, smallest
and largest value of each channel in the window that the server remembers.

What happened is counted in a file, which outlives the process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import random
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from tritonclient import grpc as triton

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import AerielError

MODEL, INPUT, OUTPUT = "stream", "snapshot_update", "facts"
STRIDE, NUM_STRIDES = 8, 4
KERNEL_SIZE = STRIDE * NUM_STRIDES
IN_FLIGHT = 4
# Longer than any sequence waits for a slot.
TIMEOUT = 30.0
# Sums of a window are whole numbers that float32 holds exactly below this.
LARGEST = 2**24 // KERNEL_SIZE
NUMBERS_PER_CLIENT = 1024


class Count(IntEnum):
    """What is counted, by its place in the file."""

    RIGHT = 0
    CROSS_STREAM = 1
    WRONG_WINDOW = 2
    LOST = 3
    SEQUENCES = 4
    FAILED_SEQUENCES = 5
    RECOVERIES = 6
    PAUSES = 7


@dataclass(frozen=True)
class Orders:
    """What a client has to do.

    Attributes:
        kind: One of `STREAMERS`.
        address: ``"host:port"`` to connect to.
        number: Which of all clients this is.
        num_sequences: Sequences at a time, each in a thread.
        seed: Of lengths and pauses.
        idle: Seconds after which the server forgets a sequence.
        counts: File to count in; a row for each thread.
    """

    kind: str
    address: str
    number: int
    num_sequences: int
    seed: int
    idle: float
    counts: str


class Story:
    """One sequence: what it sends, and what must come back.

    Args:
        orders: The client's.
        name: The sequence's number, its payload.
        rng: Decides on length and pause.
        counts: Where to count.
    """

    def __init__(
        self, orders: Orders, name: int, rng: random.Random, counts: np.ndarray
    ) -> None:
        self.name = name
        self.length = rng.randrange(20, 120)
        self._pause_at = rng.randrange(self.length) * (rng.random() < 0.15)
        self._pause = 1.5 * orders.idle
        self._counts = counts

    def updates(self) -> Iterator[np.ndarray]:
        """The updates; pauses once in a while, longer than allowed."""
        for index in range(self.length):
            if index and index == self._pause_at:
                self._counts[Count.PAUSES] += 1
                time.sleep(self._pause)
            update = np.empty((1, 2, STRIDE), np.float32)
            update[:, 0], update[:, 1] = self.name, index + 1
            yield update

    def expected(self, index: int) -> np.ndarray:
        """Sums, smallest and largest values after an update."""
        indices = np.arange(index - NUM_STRIDES + 1, index + 1)
        names = np.where(indices < 0, 0, self.name)
        window = np.array([names, np.maximum(indices + 1, 0)])
        sums = STRIDE * window.sum(1)
        return np.stack([sums, window.min(1), window.max(1)])

    def check(self, index: int, output: np.ndarray) -> None:
        """Count an answer."""
        if np.array_equal(output[0], self.expected(index)):
            self._counts[Count.RIGHT] += 1
        elif self._is_foreign(output[0, :, 0]):
            self._counts[Count.CROSS_STREAM] += 1
        else:
            self._counts[Count.WRONG_WINDOW] += 1

    def _is_foreign(self, facts: np.ndarray) -> bool:
        """Whether a value of the window is neither zero nor the name."""
        total, smallest, largest = facts
        own = {0.0, float(self.name)}
        return not {smallest, largest} <= own or total % self.name != 0


def stream_ours(
    orders: Orders, client: InferenceClient, place: int, story: Story
) -> tuple[int, int]:
    """Returns how many updates were lost, and the recoveries."""
    sequence_id = place + 1  # the same as in all other clients
    sent = answered = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal sent
        for update in story.updates():
            sent += 1
            yield update

    with client.sequence(
        sequence_id, replay=True, max_in_flight=IN_FLIGHT, timeout=TIMEOUT
    ) as sequence:
        try:
            for result in sequence.stream(counted()):
                story.check(result.index, result.output)
                answered += 1
        except AerielError as error:
            print(f"client {orders.number}: {error!r}", file=sys.stderr)
        return sent - answered, sequence.num_recoveries


class RawStream:
    """A sequence through NVIDIA's client, as its users write it."""

    def __init__(self, address: str, sequence_id: int, story: Story) -> None:
        self._client = triton.InferenceServerClient(address)
        self._id = sequence_id
        self._story = story
        self._room: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self.num_sent = self.num_answered = 0

    def run(self) -> None:
        """Send all updates and wait for their answers.

        Raises:
            InferenceServerException: If one fails.
            queue.Empty: If an answer does not come.
        """
        for _ in range(IN_FLIGHT):
            self._room.put(None)
        self._client.start_stream(self._take)
        tensor = triton.InferInput(INPUT, (1, 2, STRIDE), "FP32")
        for index, update in enumerate(self._story.updates()):
            self._wait()
            tensor.set_data_from_numpy(update)
            self.num_sent += 1
            self._client.async_stream_infer(
                MODEL,
                [tensor],
                request_id=str(index),
                sequence_id=self._id,
                sequence_start=index == 0,
                sequence_end=index == self._story.length - 1,
            )
        for _ in range(IN_FLIGHT):
            self._wait()

    def close(self) -> None:
        """Give up what is under way."""
        self._client.stop_stream(cancel_requests=True)
        self._client.close()

    def _wait(self) -> None:
        error = self._room.get(timeout=TIMEOUT)
        if error is not None:
            raise error

    def _take(
        self, result: triton.InferResult | None, error: Exception | None
    ) -> None:
        if result is not None:
            index = int(result.get_response().id)
            self._story.check(index, result.as_numpy(OUTPUT))
            self.num_answered += 1
        self._room.put(error)


def stream_raw(
    orders: Orders, place: int | None, story: Story
) -> tuple[int, int]:
    """As `stream_ours`; without a place the id is random."""
    sequence_id = 1 + (secrets.randbelow(2**31) if place is None else place)
    stream = RawStream(orders.address, sequence_id, story)
    try:
        stream.run()
    except (triton.InferenceServerException, queue.Empty):
        pass
    finally:
        with contextlib.suppress(triton.InferenceServerException):
            stream.close()
    return stream.num_sent - stream.num_answered, 0


KINDS = {
    "client": "the same ids, replay",
    "tritonclient": "the same ids",
    "tritonclient random": "random ids",
}


def body(
    orders: Orders, place: int, shared: Any, stop: threading.Event
) -> None:
    """Stream one sequence after the other."""
    seed = f"{orders.seed} {orders.number} {place}"
    rng = random.Random(seed)  # noqa: S311 - to be repeated
    counts = np.memmap(orders.counts, np.int64, "r+").reshape(-1, len(Count))
    mine = counts[place]
    first = orders.number * NUMBERS_PER_CLIENT + place
    for turn in range(10**9):
        if stop.is_set():
            return
        offset = turn * orders.num_sequences % NUMBERS_PER_CLIENT
        story = Story(orders, 1 + (first + offset) % (LARGEST - 1), rng, mine)
        mine[Count.SEQUENCES] += 1
        if orders.kind == "client":
            lost, recoveries = stream_ours(orders, shared, place, story)
        else:
            is_random = orders.kind != "tritonclient"
            lost, recoveries = stream_raw(
                orders, None if is_random else place, story
            )
        mine[Count.LOST] += lost
        mine[Count.FAILED_SEQUENCES] += lost > 0
        mine[Count.RECOVERIES] += recoveries


def main() -> None:
    """Stream until standard input ends."""
    logging.disable(logging.WARNING)  # recoveries are counted
    orders = Orders(**json.loads(sys.argv[1]))
    stop = threading.Event()
    with contextlib.ExitStack() as opened:
        shared = None
        if orders.kind == "client":
            shared = opened.enter_context(
                InferenceClient(orders.address, MODEL, connect_timeout=30)
            )
        threads = [
            threading.Thread(target=body, args=(orders, place, shared, stop))
            for place in range(orders.num_sequences)
        ]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stop.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
