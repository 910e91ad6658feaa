"""The contenders of stream_scaling.py, each in a process of its own.

Runs as ``_scaling_clients.py NAME``: reads jobs as lines of JSON, answers
with lines of JSON. In a job, N sequences stream at once, a thread for each:
first a few updates to warm up, then as fast as answers come, then at a given
rate. Every answer is compared with what is expected.
"""

from __future__ import annotations

import contextlib
import json
import queue
import random
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2

from hermes.aeriel._channel import ChannelOptions
from hermes.aeriel._http2 import Http2Channel
from hermes.aeriel.client import InferenceClient, StreamResult

INPUT, OUTPUT = "snapshot_update", "output_0"
METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
# Nothing here takes so long, unless it never ends.
PATIENCE = 60.0


@dataclass(frozen=True)
class Job:
    """What a contender has to do.

    Attributes:
        address: ``"host:port"`` of the server.
        model: The ensemble.
        data: Folder with ``updates.npy``, (sequences, updates, 1, channels,
            samples), and ``expected.npy``, the outputs' bytes.
        num_warmup: Updates of each sequence before time is taken.
        num_timed: Updates of each that are sent as fast as answers come.
        num_paced: Updates of each that are sent at ``rate``.
        rate: Updates per second of all sequences together.
        in_flight: Updates of each that wait for their answers at most,
            unless they are paced.
        in_step: Whether all sequences have to be under way before time is
            taken; otherwise it is taken from the first START.
    """

    address: str
    model: str
    data: str
    num_warmup: int
    num_timed: int
    num_paced: int
    rate: float
    in_flight: int
    in_step: bool = True


class Contender(ABC):
    """N sequences of a job.

    Attributes:
        answers: Of each sequence, in the order in which they came.
        arrivals: When they did.
    """

    def __init__(self, job: Job, updates: np.ndarray) -> None:
        self.job = job
        self.updates = updates
        # below 2**31: any client can send it
        self.ids = random.sample(range(1, 2**31), len(updates))
        self.answers: list[list[Any]] = [[] for _ in updates]
        self.arrivals: list[list[float]] = [[] for _ in updates]
        self.failures: list[str] = []
        # One token for each update that may be sent.
        self._room: list[queue.SimpleQueue[None]] = []
        for _ in updates:
            self._room.append(queue.SimpleQueue())
            for _ in range(job.in_flight):
                self._room[-1].put(None)
        # How many answers of each sequence somebody waits for.
        self._wanted = [(0, threading.Event()) for _ in updates]

    @property
    def last(self) -> int:
        """Index of the update that ends a sequence."""
        return self.updates.shape[1] - 1

    @abstractmethod
    def send(self, number: int, index: int) -> None:
        """Send an update of a sequence; the first one begins it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything."""

    def took(self, number: int, answer: Any) -> None:
        """Keep an answer; called by what reads them."""
        self.arrivals[number].append(time.perf_counter())
        self.answers[number].append(answer)
        self._room[number].put(None)
        count, enough = self._wanted[number]
        if len(self.answers[number]) == count:
            enough.set()

    def failed(self, reason: object) -> None:
        """Keep what went wrong; nothing more can be hoped for."""
        self.failures.append(str(reason))

    def stream(self, number: int, indices: range) -> None:
        """Send updates as fast as answers come; return after the last."""
        for index in indices:
            self._keep_trying(partial(self._room[number].get, timeout=1))
            self.send(number, index)
        self.wait(number, indices.stop)

    def wait(self, number: int, count: int) -> None:
        """Wait until so many answers of a sequence are there."""
        enough = threading.Event()
        self._wanted[number] = count, enough
        if len(self.answers[number]) < count:
            self._keep_trying(partial(self._until, enough))

    def decode(self, answer: Any) -> bytes:
        """The output's bytes."""
        return bytes(answer.tobytes())

    def _until(self, event: threading.Event) -> None:
        if not event.wait(1):
            raise queue.Empty

    def _keep_trying(self, wait_a_second: Callable[[], None]) -> None:
        """Wait until there is something, or no hope any more."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                return wait_a_second()
            if self.failures:
                raise RuntimeError(self.failures[0])
        raise TimeoutError(f"nothing for {PATIENCE:g} s")


class Client(Contender):
    """InferenceClient, a sequence in each thread."""

    def __init__(self, job: Job, updates: np.ndarray) -> None:
        super().__init__(job, updates)
        self._client = InferenceClient(job.address, job.model)
        self._sequences = [
            self._client.sequence(max_in_flight=job.in_flight) for _ in updates
        ]

    def stream(self, number: int, indices: range) -> None:
        sequence = self._sequences[number]
        for result in sequence.stream(
            self.updates[number, indices.start : indices.stop]
        ):
            self.took(number, result.output)
        if indices.stop > self.last:
            sequence.close()

    def send(self, number: int, index: int) -> None:
        def take(found: Future[StreamResult]) -> None:
            if (error := found.exception()) is not None:
                self.failed(error)
            else:
                self.took(number, found.result().output)

        self._sequences[number].send(
            self.updates[number, index], end=index == self.last
        ).add_done_callback(take)

    def close(self) -> None:
        self._client.close()


class Tritonclient(Contender):
    """NVIDIA's client: one of it, with one stream, for each sequence."""

    num_clients: int | None = None

    def __init__(self, job: Job, updates: np.ndarray) -> None:
        super().__init__(job, updates)
        number = self.num_clients or len(updates)
        self._clients = [
            triton.InferenceServerClient(job.address) for _ in range(number)
        ]
        self._inputs = [
            triton.InferInput(INPUT, update.shape, "FP32")
            for update in updates[:, 0]
        ]
        for client in self._clients:
            client.start_stream(self._take)

    def send(self, number: int, index: int) -> None:
        tensor = self._inputs[number]
        tensor.set_data_from_numpy(self.updates[number, index])
        self._clients[number % len(self._clients)].async_stream_infer(
            self.job.model,
            [tensor],
            request_id=str(number),
            sequence_id=self.ids[number],
            sequence_start=index == 0,
            sequence_end=index == self.last,
        )

    def close(self) -> None:
        for client in self._clients:
            client.stop_stream()
            client.close()

    def _take(
        self, result: triton.InferResult | None, error: Exception | None
    ) -> None:
        if result is None:
            self.failed(error)
        else:
            number = int(result.get_response().id)
            self.took(number, result.as_numpy(OUTPUT))


class OneTritonclient(Tritonclient):
    """NVIDIA's client, with one stream for all sequences."""

    num_clients = 1


class Bytes(Contender):
    """What both kinds of bytes have in common: nothing is serialised."""

    def __init__(self, job: Job, updates: np.ndarray) -> None:
        super().__init__(job, updates)
        self.messages = [
            [self._serialise(n, i) for i in range(len(part))]
            for n, part in enumerate(updates)
        ]

    def decode(self, answer: bytes) -> bytes:
        found = service_pb2.ModelStreamInferResponse.FromString(bytes(answer))
        return bytes(b"".join(found.infer_response.raw_output_contents))

    def _serialise(self, number: int, index: int) -> bytes:
        update = self.updates[number, index]
        message = service_pb2.ModelInferRequest(
            model_name=self.job.model, id=str(number)
        )
        message.inputs.add(name=INPUT, datatype="FP32", shape=update.shape)
        message.raw_input_contents.append(update.tobytes())
        message.parameters["sequence_id"].int64_param = self.ids[number]
        message.parameters["sequence_start"].bool_param = index == 0
        message.parameters["sequence_end"].bool_param = index == self.last
        return bytes(message.SerializeToString())


class GrpcioBytes(Bytes):
    """grpcio's streams of serialised messages: NVIDIA's floor."""

    def __init__(self, job: Job, updates: np.ndarray) -> None:
        super().__init__(job, updates)
        self._channel = grpc.insecure_channel(job.address)
        self._queues: list[queue.SimpleQueue[bytes | None]] = []
        self._readers = []
        for number in range(len(updates)):
            messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            call = self._channel.stream_stream(METHOD)(
                iter(messages.get, None)
            )
            reader = threading.Thread(target=self._read, args=(number, call))
            reader.start()
            self._queues.append(messages)
            self._readers.append(reader)

    def send(self, number: int, index: int) -> None:
        self._queues[number].put(self.messages[number][index])

    def close(self) -> None:
        for messages in self._queues:
            messages.put(None)
        for reader in self._readers:
            reader.join()
        self._channel.close()

    def _read(self, number: int, call: Any) -> None:
        try:
            for answer in call:
                self.took(number, answer)
        except grpc.RpcError as error:
            self.failed(error)


class OwnBytes(Bytes):
    """Our channel's streams of serialised messages: our floor."""

    def __init__(self, job: Job, updates: np.ndarray) -> None:
        super().__init__(job, updates)
        self._channel = Http2Channel(ChannelOptions(job.address))
        self._calls = [
            self._channel.stream(
                METHOD,
                lambda answer, n=n: self.took(n, answer),
                lambda _: None,
            )
            for n in range(len(updates))
        ]

    def send(self, number: int, index: int) -> None:
        self._calls[number].write(self.messages[number][index])

    def close(self) -> None:
        self._channel.close()


CONTENDERS: dict[str, type[Contender]] = {
    "client": Client,
    "tritonclient each": Tritonclient,
    "tritonclient one": OneTritonclient,
    "grpcio bytes": GrpcioBytes,
    "own bytes": OwnBytes,
}


class Course:
    """A job while it is done: three parts, and clocks between them."""

    def __init__(self, contender: Contender, job: Job) -> None:
        self._contender = contender
        self._size = len(contender.updates)
        self._interval = self._size / job.rate
        self._warm = range(job.num_warmup)
        self._timed = range(self._warm.stop, self._warm.stop + job.num_timed)
        self._paced = range(self._timed.stop, self._timed.stop + job.num_paced)
        # wall clock and CPU time between the parts
        self._clocks: list[tuple[float, float]] = []
        self._barrier = threading.Barrier(self._size, self._look)
        self._due: list[list[float]] = [[] for _ in contender.updates]

    def run(self, *, in_step: bool) -> dict[str, Any]:
        """Stream all sequences; returns the figures."""
        self._look()
        body = self._three_parts if in_step else self._at_once
        with ThreadPoolExecutor(self._size) as threads:
            for found in list(map(partial(threads.submit, body), self._all)):
                found.result()
        self._look()
        begin, end = self._clocks[-3:-1] if in_step else self._clocks
        last = self._timed.stop - 1 if in_step else -1
        arrivals = self._contender.arrivals
        return {
            "seconds": max(times[last] for times in arrivals) - begin[0],
            "cpu_seconds": end[1] - begin[1],
            "latencies": [
                arrived - due
                for times, expected in zip(arrivals, self._due, strict=True)
                for arrived, due in zip(
                    times[self._timed.stop :], expected, strict=False
                )
            ],
        }

    @property
    def _all(self) -> range:
        return range(self._size)

    def _look(self) -> None:
        self._clocks.append((time.perf_counter(), time.process_time()))

    def _at_once(self, number: int) -> None:
        self._contender.stream(number, range(self._paced.stop))

    def _three_parts(self, number: int) -> None:
        for part in (self._warm, self._timed):
            self._contender.stream(number, part)
            self._barrier.wait(PATIENCE)
        interval = self._interval
        begin = time.perf_counter() + (1 + number / self._size) * interval
        self._due[number] = [
            begin + n * interval for n in range(len(self._paced))
        ]
        for index, due in zip(self._paced, self._due[number], strict=True):
            time.sleep(max(0.0, due - time.perf_counter()))
            self._contender.send(number, index)
        self._contender.wait(number, self._paced.stop)


def num_wrong(contender: Contender, expected: Sequence[Any]) -> int:
    """Answers that differ in a bit, are missing or too many."""
    wrong = 0
    for answers, wanted in zip(contender.answers, expected, strict=True):
        wrong += abs(len(answers) - len(wanted))
        for answer, right in zip(answers, wanted, strict=False):
            wrong += contender.decode(answer) != right.tobytes()
    return wrong


def do(name: str, job: Job) -> dict[str, Any]:
    """Do a job from begin to end."""
    updates = np.load(Path(job.data) / "updates.npy")
    expected = np.load(Path(job.data) / "expected.npy")
    count = job.num_warmup + job.num_timed + job.num_paced
    contender = CONTENDERS[name](job, updates[:, :count])
    try:
        figures = Course(contender, job).run(in_step=job.in_step)
    finally:
        contender.close()
    return {
        **figures,
        "checked": sum(map(len, contender.answers)),
        "wrong": num_wrong(contender, expected[:, :count]),
    }


def main() -> None:
    """Do jobs until there are no more."""
    print("ready", flush=True)
    for line in sys.stdin:
        figures = do(sys.argv[1], Job(**json.loads(line)))
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
