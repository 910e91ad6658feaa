"""C1: what a streamed request costs the client's process, in CPU time.

Updates of shape (1, 2, 16) go to a tiny network on a real Triton, with 1, 8
and 32 requests in flight. In turns, several times over:

    client          InferenceClient.submit
    transport       what the client stands on: arrays in, arrays out
    over grpcio     the same, over grpcio in place of our own HTTP/2
    bytes           what that stands on in turn: serialised messages
    tritonclient    NVIDIA's client, its stream
    grpcio bytes    grpcio's stream of serialised messages: NVIDIA's floor

Prints the medians over all rounds and, in brackets, the smallest and the
largest; the ratio is to tritonclient.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import torch
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2

from hermes.aeriel._channel import Channel, ChannelOptions
from hermes.aeriel._grpcio import GrpcioChannel
from hermes.aeriel._http2 import Http2Channel
from hermes.aeriel._transport import Request
from hermes.aeriel._triton import TritonTransport
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import serve
from hermes.quiver import ModelRepository, Platform

MODEL = "mean"
METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
UPDATE = np.arange(32, dtype=np.float32).reshape(1, 2, 16)
ANSWER = UPDATE.mean(-1).tobytes()
IN_FLIGHT = (1, 8, 32)
BASELINE = "tritonclient"

Done = Callable[[], None]
Send = Callable[[int], None]


class Mean(torch.nn.Module):
    """The average over time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 2, 16) -> (batch, 2)."""
        return x.mean(-1)


@contextlib.contextmanager
def client(address: str, done: Done) -> Iterator[Send]:
    """InferenceClient.submit."""
    with InferenceClient(address, MODEL) as opened:

        def send(_: int) -> None:
            future = opened.submit(UPDATE)
            future.add_done_callback(lambda found: check(found.result(), done))

        yield send


@contextlib.contextmanager
def transport(
    address: str, done: Done, channel: Channel | None = None
) -> Iterator[Send]:
    """The client's transport."""
    opened = TritonTransport(address, channel=channel)
    connection = opened.connect(
        lambda answer: check(answer.outputs["output_0"], done), lambda _: None
    )
    yield lambda number: connection.send(
        Request(MODEL, None, str(number), {"x": UPDATE})
    )
    connection.close(1)
    opened.close()


def over_grpcio(
    address: str, done: Done
) -> contextlib.AbstractContextManager[Send]:
    """The client's transport as it is with TLS, but without TLS."""
    channel = GrpcioChannel(ChannelOptions(address))
    return transport(address, done, channel)


@contextlib.contextmanager
def own_bytes(address: str, done: Done) -> Iterator[Send]:
    """Our channel, with messages serialised before."""
    opened = Http2Channel(ChannelOptions(address))
    message = serialised()
    call = opened.stream(METHOD, lambda _: done(), lambda _: None)
    yield lambda _: call.write(message)
    opened.close()


@contextlib.contextmanager
def tritonclient(address: str, done: Done) -> Iterator[Send]:
    """NVIDIA's client."""
    tensor = triton.InferInput("x", UPDATE.shape, "FP32")
    with triton.InferenceServerClient(address) as opened:

        def take(result: triton.InferResult, error: Exception | None) -> None:
            if error is None:
                check(result.as_numpy("output_0"), done)

        opened.start_stream(take)

        def send(number: int) -> None:
            tensor.set_data_from_numpy(UPDATE)
            opened.async_stream_infer(MODEL, [tensor], request_id=str(number))

        yield send
        opened.stop_stream()


@contextlib.contextmanager
def grpcio_bytes(address: str, done: Done) -> Iterator[Send]:
    """grpcio, with messages serialised before."""
    messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    message = serialised()
    with grpc.insecure_channel(address) as opened:
        call = opened.stream_stream(METHOD)(iter(messages.get, None))

        def read() -> None:
            for _ in call:
                done()

        reader = threading.Thread(target=read)
        reader.start()
        yield lambda _: messages.put(message)
        messages.put(None)
        reader.join()


CONTENDERS = {
    "client": client,
    "transport": transport,
    "over grpcio": over_grpcio,
    "bytes": own_bytes,
    BASELINE: tritonclient,
    "grpcio bytes": grpcio_bytes,
}


def check(answer: np.ndarray, done: Done) -> None:
    """Count an answer, unless it is wrong."""
    # two numbers that are exact in any order of summation
    if answer.tobytes() == ANSWER:
        done()


def serialised() -> bytes:
    """A request as it goes over the wire."""
    message = service_pb2.ModelInferRequest(model_name=MODEL, id="1")
    message.inputs.add(name="x", datatype="FP32", shape=UPDATE.shape)
    message.raw_input_contents.append(UPDATE.tobytes())
    return message.SerializeToString()


def export(root: Path) -> None:
    """The repository that is served."""
    model = ModelRepository(root).add(MODEL, Platform.ONNX)
    model.export_version(
        Mean(),
        input_shapes={"x": (None, 2, 16)},
        output_names=["output_0"],
    )


def measure(name: str, address: str, in_flight: int, count: int) -> float:
    """CPU seconds of this process per request."""
    tokens: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run(send: Send, count: int) -> None:
        for _ in range(in_flight):
            tokens.put(None)
        for number in range(count):
            tokens.get(timeout=30)
            send(number)
        for _ in range(in_flight):
            tokens.get(timeout=30)

    with CONTENDERS[name](address, lambda: tokens.put(None)) as send:
        run(send, max(count // 10, 3))
        begin = time.process_time()
        run(send, count)
        return (time.process_time() - begin) / count


def pin(cores: list[int]) -> None:
    """Use these cores from now on, and what is started from now on does."""
    os.sched_setaffinity(0, cores or os.sched_getaffinity(0))


def tabulate(found: dict[str, dict[int, list[float]]]) -> str:
    """The medians, spreads and ratios as a table."""
    lines = [
        f"{'CPU per request':16}"
        + "".join(f"{f'{n} in flight':>34}" for n in IN_FLIGHT)
    ]
    for name, by_number in found.items():
        line = f"{name:16}"
        for number, values in by_number.items():
            ratio = statistics.median(
                mine / theirs
                for mine, theirs in zip(
                    values, found[BASELINE][number], strict=True
                )
            )
            low, middle, high = (
                f"{1e6 * f(values):.0f}" for f in (min, statistics.median, max)
            )
            line += f"{f'{middle} us [{low}, {high}]':>26}{ratio:8.2f}"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, dict[int, list[float]]] = {
        name: {number: [] for number in IN_FLIGHT} for name in CONTENDERS
    }
    with tempfile.TemporaryDirectory() as root:
        export(Path(root))
        cores = sorted(os.sched_getaffinity(0))
        pin(cores[1:])
        with serve(root, free_ports=True, wait=True) as server:
            pin(cores[:1])
            for _ in range(options.rounds):
                for number in IN_FLIGHT:
                    for name in CONTENDERS:
                        found[name][number].append(
                            measure(
                                name,
                                server.endpoint.grpc,
                                number,
                                options.requests,
                            )
                        )
    print(tabulate(found))
    print(
        f"{options.rounds} rounds of {options.requests} requests;"
        f" load average {os.getloadavg()[0]:.1f}"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    sys.exit(main())
