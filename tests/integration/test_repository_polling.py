"""A server that polls a repository never sees it broken."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import Server, serve
from hermes.quiver import ModelRepository, Platform

pytestmark = pytest.mark.triton

POLLING = ["--model-control-mode=poll", "--repository-poll-secs=1"]
# What the server says where it finds something that it cannot load.
COMPLAINT = re.compile(
    r"^E\d{4} (?!.*CudaDriver).*|.*cannot load.*", re.MULTILINE
)


def mean() -> onnx.ModelProto:
    """Averages over the last axis."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in {"x": ["b", 16], "y": ["b"]}.items()
    ]
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[-1], keepdims=0)
    return helper.make_model(
        helper.make_graph([node], "mean", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )


@dataclass
class Load:
    """Asks the server all the time, and remembers what was wrong."""

    server: Server
    answers: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        x = np.arange(16, dtype=np.float32)[None]
        with InferenceClient(self.server.endpoint, "mean") as client:
            while not stop.is_set():
                try:
                    y = client.predict(x)
                except Exception as error:  # noqa: BLE001 - any is wrong
                    self.wrong.append(repr(error))
                    return
                if y != x.mean():
                    self.wrong.append(f"{y} instead of {x.mean()}")
                self.answers += 1

    def watch(self, stop: threading.Event) -> None:
        while not stop.wait(0.05):
            if not is_ready(self.server, "/v2/models/mean/ready"):
                self.wrong.append("the model is not ready")


def is_ready(server: Server, path: str) -> bool:
    connection = http.client.HTTPConnection(server.endpoint.http, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    finally:
        connection.close()


@pytest.fixture
def repository(tmp_path) -> ModelRepository:
    repository = ModelRepository(tmp_path / "models")
    model = repository.add("mean", Platform.ONNX)
    model.config.add_instance_group(count=1, kind="cpu")
    model.export_version(mean())
    return repository


@pytest.fixture
def load(repository) -> Iterator[Load]:
    with serve(
        repository, free_ports=True, server_args=POLLING, wait=True
    ) as server:
        load, stop = Load(server), threading.Event()
        threads = [
            threading.Thread(target=work, args=[stop])
            for work in (load.run, load.watch)
        ]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def wait_for(load: Load, path: str) -> None:
    """Wait until something is ready, at most for a minute."""
    deadline = time.monotonic() + 60
    while not is_ready(load.server, path):
        if time.monotonic() > deadline:
            pytest.fail(f"{path} never came:\n{load.server.logs(20)}")
        time.sleep(0.2)


def check(load: Load) -> None:
    assert load.wrong == []
    assert load.answers > 100
    assert COMPLAINT.findall(load.server.logs()) == []
    assert {v.get("reason") for v in index(load.server)} <= {None, "unloaded"}


def index(server: Server) -> list[dict]:
    """The state of every version; /v2/health/ready is no help here.

    It stays false after a version was replaced by the next (2.51).
    """
    connection = http.client.HTTPConnection(server.endpoint.http, timeout=10)
    try:
        connection.request("POST", "/v2/repository/index", body="{}")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def test_fifty_versions_under_load(repository, load) -> None:
    model = repository.models["mean"]
    for number in range(2, 52):
        model.export_version(mean())
        if number % 10 == 0:  # of the configuration too, and new models
            model.config.parameters["export"].string_value = str(number)
            model.config.write()
            model.export_version(mean(), version=number, force=True)
        if number % 25 == 0:
            repository.add(f"new-{number}", Platform.ONNX).export_version(
                mean()
            )
        time.sleep(0.15)

    wait_for(load, "/v2/models/mean/versions/51/ready")
    wait_for(load, "/v2/models/new-50/ready")
    repository.remove("new-25")
    time.sleep(2.5)
    check(load)


# Children of one process that has imported everything: they are killed within
# what an export takes, which is a few milliseconds.
EXPORTERS = """
import os, random, signal, sys, time
from pathlib import Path
import onnx
from hermes.quiver import ModelRepository, Platform

repository = ModelRepository(sys.argv[1])
network = onnx.load(sys.argv[2])
model = repository.models["mean"]

def export(number):
    model.config.parameters["export"].string_value = str(number)
    for repeat in range(8):
        if number % 3 == 0:
            model.export_version(network, version=1, force=True)
        elif number % 25 == 1 and repeat == 0:
            new = repository.add(f"new-{number}", Platform.ONNX)
            new.export_version(network)
        else:
            model.export_version(network)

model.export_version(network)  # which imports the rest
dice = random.Random(0)
for number in range(100):
    child = os.fork()
    if not child:
        export(number)
        os._exit(0)
    time.sleep(dice.uniform(0, 0.12))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    time.sleep(0.05)
"""


def test_exporters_killed_at_random_moments(
    repository, load, tmp_path
) -> None:
    network = tmp_path / "mean.onnx"
    onnx.save(mean(), network)
    command = [sys.executable, "-c", EXPORTERS, repository.root, str(network)]
    subprocess.run(command, check=True, timeout=120)

    # what they left beside the root is swept by the next one
    model = repository.models["mean"]
    last = int(model.export_version(mean()).split("/")[-2])
    assert [*tmp_path.glob(".*")] == []
    found = ModelRepository(repository.root)
    assert all(m.problem is None for m in found.models.values())
    versions = found.models["mean"].versions
    assert versions == [*range(1, last + 1)]
    assert last > 30  # some were not too early
    for name, model in found.models.items():
        for version in model.versions:
            assert model.read_version(version) == network.read_bytes()
        assert Path(found.root, name, "config.pbtxt").is_file()
    wait_for(load, f"/v2/models/mean/versions/{last}/ready")
    check(load)
