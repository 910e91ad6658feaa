"""V1: from serve() to the first answer, against a bare tritonserver.

In turns, several times over, with one small network:

    serve       serve(), wait(), InferenceClient.predict: its answer is there
    bare        tritonserver, started by hand: it says that it is ready
    container   as serve, with image= (where --image is given)

The server is the same one in all of them. Prints the medians over all rounds
and, in brackets, the smallest and the largest; the ratio is to bare.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from _common import circumstances, make_parser, ratio, spread, write_json
from onnx import TensorProto, helper

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import serve
from hermes.aeriel.serve._runtimes import Request, find_runtime

ROUNDS = 7
POLL_SECONDS = 0.002
X = np.zeros((1, 2, 1024), np.float32)


def write_repository(root: Path) -> Path:
    """A mean over time: the network costs nothing, the start is all."""
    row = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2])],
        "probe",
        [row("x", TensorProto.FLOAT, ["batch", 2, 1024])],
        [row("y", TensorProto.FLOAT, ["batch", 1, 1])],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    folder = root / "probe"
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(
        'platform: "onnxruntime_onnx" max_batch_size: 8 '
        'input { name: "x" data_type: TYPE_FP32 dims: [2, 1024] } '
        'output { name: "y" data_type: TYPE_FP32 dims: [1, 1] } '
        "instance_group { count: 1 kind: KIND_CPU }"
    )
    return root


def time_serve(root: Path, image: Path | None) -> float:
    """Seconds until serve() has given an answer."""
    began = time.perf_counter()
    with serve(root, image, gpus=[], free_ports=True) as server:
        server.wait()
        with InferenceClient(server.endpoint, "probe") as client:
            client.predict(X)
            return time.perf_counter() - began


def time_bare(root: Path) -> float:
    """Seconds until a tritonserver started by hand is ready."""
    runtime = find_runtime(os.environ)
    request = Request((str(root),), dict(os.environ))
    ports = free_ports()
    with runtime.launch(request) as launch:
        command = [
            *launch.argv,
            f"--model-repository={launch.repositories[0]}",
            f"--backend-directory={launch.backend_directory}",
            f"--http-port={ports[0]}",
            f"--grpc-port={ports[1]}",
            f"--metrics-port={ports[2]}",
        ]
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            env={**launch.env, "CUDA_VISIBLE_DEVICES": ""},
            cwd=launch.cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        while not is_ready(ports[0]):
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def free_ports() -> list[int]:
    """Three ports that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def is_ready(port: int) -> bool:
    """Whether a server says so."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def main() -> int:
    """Measure, print, and write what was measured."""
    parser = make_parser(__doc__, ROUNDS)
    parser.add_argument("--image", type=Path, help="a container image, too")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    load = os.getloadavg()[0]
    seconds: dict[str, list[float]] = {"bare": [], "serve": []}
    with tempfile.TemporaryDirectory() as folder:
        root = write_repository(Path(folder) / "models")
        time_serve(root, None)  # to have the files in memory
        for _ in range(rounds):
            seconds["bare"].append(time_bare(root))
            seconds["serve"].append(time_serve(root, None))
            if options.image is not None:
                found = time_serve(root, options.image.absolute())
                seconds.setdefault("container", []).append(found)
    told = circumstances(rounds, os.sched_getaffinity(0), load)
    report(seconds, told)
    figures = {
        name: {
            "seconds": spread(values),
            "ratio": ratio(values, seconds["bare"]),
        }
        for name, values in seconds.items()
    }
    write_json(options.json, {"V1": figures, **told})
    return 0


def report(seconds: dict[str, list[float]], told: dict[str, object]) -> None:
    """Print a table."""
    print(f"{'':12}{'seconds':>24}{'ratio to bare':>24}")
    for name, values in seconds.items():
        columns = [
            f"{found['median']:.2f} [{found['min']:.2f}, {found['max']:.2f}]"
            for found in (spread(values), ratio(values, seconds["bare"]))
        ]
        print(f"{name:12}{columns[0]:>24}{columns[1]:>24}")
    print(", ".join(f"{name} {value}" for name, value in told.items()))


if __name__ == "__main__":
    sys.exit(main())
