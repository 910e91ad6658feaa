"""S1: arrays from one process to another, through whatever joins them.

Frames of float32 from 1 kB to 16 MB go from one process to another that owns
what it gets (its own memory, writable). In turns, several times over:

    channel       hermes.stillwater's channel
    queue         multiprocessing.Queue
    pipe          multiprocessing.Pipe
    torch queue   torch.multiprocessing.Queue, which shares the memory: the
                  receiver clones, to own what it gets like the others
    memcpy        a copy inside one process: the floor

Frames are taken in turn from a store that no cache holds. Each carries its
number at both ends, and the receiver checks both. Prints GB/s, the medians
over all rounds, and ratios of the same round.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from _common import (
    circumstances,
    make_parser,
    pin,
    ratio,
    split_cores,
    spread,
    write_json,
)

from hermes.stillwater.channel import BUFFER_SIZE, DEPTH, open_channel

SIZES = (2**10, 2**16, 2**20, 2**22, 2**24)
STORE_SIZE = 2**27
WARMUP = 5
SECONDS = 120.0
Give = Callable[[Any], object]
Take = Callable[[], Any]


class Frames:
    """Frames from a store that is larger than the caches."""

    def __init__(self, size: int) -> None:
        number = max(2, STORE_SIZE // size)
        self._store = np.zeros((number, size // 4), np.float32)

    def __call__(self, index: int) -> np.ndarray:
        """Give the next one."""
        frame = self._store[index % len(self._store)]
        frame[0] = frame[-1] = index % 2**20
        return frame


def receive(take: Take, number: int, told: Any) -> None:
    """Take all frames, check them, and tell how long it took."""
    for index in range(WARMUP + number):
        if index == WARMUP:
            begin = time.perf_counter()
        frame = take()
        if frame[0] != index % 2**20 or frame[-1] != index % 2**20:
            told.send(f"frame {index} is wrong: {frame[0]}, {frame[-1]}")
            return
    told.send(time.perf_counter() - begin)


def from_channel(receiver: Any, number: int, told: Any) -> None:
    """As a receiving process."""
    receive(receiver.receive, number, told)


def from_queue(queue: Any, number: int, told: Any) -> None:
    """As a receiving process."""
    receive(queue.get, number, told)


def from_pipe(pipe: Any, number: int, told: Any) -> None:
    """As a receiving process."""
    receive(pipe.recv, number, told)


def from_torch(queue: Any, number: int, told: Any) -> None:
    """As a receiving process."""
    import_torch()
    receive(lambda: queue.get().clone().numpy(), number, told)


def import_torch() -> Any:
    """Where it is needed: each spawned process imports this file again."""
    import torch.multiprocessing  # noqa: PLC0415

    torch.multiprocessing.set_sharing_strategy("file_system")
    return torch


@contextlib.contextmanager
def running(target: Any, *arguments: Any) -> Iterator[None]:
    """A receiving process."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=target, args=arguments)
    ours, theirs = split_cores()
    pin(theirs)
    process.start()
    pin(ours)
    try:
        yield
        process.join(30)
    finally:
        process.kill()
        process.join()
        pin(ours | theirs)


def measure(
    target: Any, end: Any, give: Give, size: int, number: int
) -> float:
    """Seconds per frame."""
    frames = Frames(size)
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    with running(target, end, number, theirs):
        if not hasattr(end, "put"):
            end.close()  # the receiver has it now, and its death is noticed
        for index in range(WARMUP + number):
            give(frames(index))
        if not ours.poll(SECONDS):
            raise TimeoutError(f"{target.__name__} does not end")
        told = ours.recv()
    if not isinstance(told, float):
        raise ValueError(told)  # noqa: TRY004 - it is a text that says why
    return told / number


def channel(size: int, number: int) -> float:
    """hermes.stillwater's."""
    sender, receiver = open_channel()
    with sender:
        return measure(from_channel, receiver, sender.send, size, number)


def depth(size: int) -> int:
    """Frames that may be on their way: what the channel has room for.

    A queue pickles in a thread of its own, later: with more of them under way
    than there are frames in the store, it would send what they are by then.
    """
    return max(1, min(DEPTH, BUFFER_SIZE // size))


def queue(size: int, number: int) -> float:
    """multiprocessing's, as bounded as the channel is."""
    joined = multiprocessing.get_context("spawn").Queue(depth(size))

    def give(frame: np.ndarray) -> None:
        joined.put(frame, timeout=SECONDS)

    return measure(from_queue, joined, give, size, number)


def pipe(size: int, number: int) -> float:
    """Multiprocessing's."""
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    return measure(from_pipe, receiver, sender.send, size, number)


def torch_queue(size: int, number: int) -> float:
    """PyTorch's. A tensor that is sent moves to shared memory: a copy each."""
    torch = import_torch()
    joined = torch.multiprocessing.get_context("spawn").Queue(depth(size))
    number = max(20, number // 10)  # it takes its time

    def give(frame: np.ndarray) -> None:
        joined.put(torch.from_numpy(frame.copy()), timeout=SECONDS)

    return measure(from_torch, joined, give, size, number)


def memcpy(size: int, number: int) -> float:
    """A copy here, to memory that is written again and again."""
    frames, copy = Frames(size), np.empty(size // 4, np.float32)
    begin = time.perf_counter()
    for index in range(number):
        copy[:] = frames(index)
    return (time.perf_counter() - begin) / number


CONTENDERS = {
    "channel": channel,
    "queue": queue,
    "pipe": pipe,
    "torch queue": torch_queue,
    "memcpy": memcpy,
}


def count(size: int, *, quick: bool) -> int:
    """How many frames take long enough to be measured."""
    return 20 if quick else min(10_000, max(40, 2**28 // size))


def show(case: dict[str, Any]) -> None:
    """Print a row for each contender."""
    for name, row in case["contenders"].items():
        print(
            f"{case['size']:>9} {name:<12}"
            f" {row['gigabytes_per_second']['median']:8.3f} GB/s"
            f" {row['frames_per_second']['median']:10.0f} frames/s"
            f"   channel is {row['channel_speedup']['median']:6.2f} times that"
            f" [{row['channel_speedup']['min']:.2f},"
            f" {row['channel_speedup']['max']:.2f}]"
        )


def main() -> int:
    """Run, print, write."""
    arguments = make_parser(__doc__ or "", rounds=5).parse_args()
    load = os.getloadavg()[0]
    rounds = 1 if arguments.quick else arguments.rounds
    sizes = SIZES[:3] if arguments.quick else SIZES
    cases = []
    for size in sizes:
        number = count(size, quick=arguments.quick)
        seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for _ in range(rounds):
            for name, contender in CONTENDERS.items():
                seconds[name].append(contender(size, number))
        case = {
            "size": size,
            "frames": number,
            "contenders": {
                name: {
                    "gigabytes_per_second": spread(
                        [size / s / 1e9 for s in each]
                    ),
                    "frames_per_second": spread([1 / s for s in each]),
                    "channel_speedup": ratio(each, seconds["channel"]),
                }
                for name, each in seconds.items()
            },
        }
        show(case)
        cases.append(case)
    cores = os.sched_getaffinity(0)
    figures = circumstances(rounds, cores, load) | {"cases": cases}
    write_json(arguments.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
