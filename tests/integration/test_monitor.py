"""The monitor against real servers: what it counts is what was sent."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future

import numpy as np
import psutil
import pytest
from rich.console import Console

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import MetricsUnavailable, ModelNotFound
from hermes.aeriel.monitor import Row, ServerMonitor, live, read, summarize

pytestmark = [
    pytest.mark.triton,
    pytest.mark.torch,
    pytest.mark.usefixtures("no_thread_left"),
]

X = np.ones((1, 2, 32), np.float32)
UPDATE = np.ones((2, 8), np.float32)
DURATIONS = "queue", "compute_input", "compute_infer", "compute_output"


def send(endpoint, num: int) -> None:
    """That many requests to the model `network`, all of them answered."""
    with InferenceClient(endpoint, "network", timeout=60) as client:
        futures: list[Future] = [client.submit(X) for _ in range(num)]
        for future in futures:
            future.result(60)


def stream(endpoint, num: int) -> None:
    """That many requests to the ensemble `stream`, the END among them."""
    with (
        InferenceClient(endpoint, "stream", timeout=60) as client,
        client.sequence() as sequence,
    ):
        for _ in sequence.stream([UPDATE] * (num - 1)):
            pass


def counts(rows: list[Row]) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows:
        assert (
            min(getattr(row, n) for n in ("count", "request", *DURATIONS)) >= 0
        )
        found[row.model] += row.count
    return found


@pytest.mark.parametrize("name", ["the run.csv", "the run.parquet"])
def test_what_is_counted_is_what_was_sent(rig, tmp_path, tell, name) -> None:
    server = rig.calm
    send(server.endpoint, 20)  # before
    path = tmp_path / name
    with ServerMonitor("stream", server.endpoint, path):
        send(server.endpoint, 500)
        stream(server.endpoint, 500)
    send(server.endpoint, 20)  # after
    rows = read(path)
    tell(counts(rows), rows=len(rows))
    assert counts(rows) == {"network": 1000, "snapshotter-stream": 500}
    for step in summarize(rows).steps:
        parts = step.queue + step.compute
        assert 0 < parts <= step.request
        assert step.throughput > 0
    if name.endswith("parquet"):
        assert sum(row.requests for row in rows) == 1500
        assert sum(row.failures for row in rows) == 0
        assert rows[-1].pending == 0


def test_the_first_and_the_last_moment_are_counted(rig, tmp_path) -> None:
    server = rig.calm
    path = tmp_path / "run.csv"
    with InferenceClient(server.endpoint, "network") as client:
        client.predict(X)
        for num in range(1, 6):
            with ServerMonitor("network", server.endpoint, path):
                for _ in range(num):
                    client.predict(X)
            assert counts(read(path)) == {"network": num}


def test_an_older_program_runs_as_it_is(rig, tmp_path) -> None:
    """They name hosts, and read columns by their names or places."""
    server = rig.calm
    grpc, metrics = (
        int(address.rpartition(":")[2])
        for address in (server.endpoint.grpc, server.endpoint.metrics)
    )
    path = tmp_path / "run.csv"
    with ServerMonitor(
        model_name="stream",
        ips=["127.0.0.1"],
        filename=path,
        model_version=-1,
        max_request_rate=10,
        name="monitor",
        grpc_port=grpc,
        metrics_port=metrics,
    ):
        stream(server.endpoint, 50)
    header, *lines = path.read_text().splitlines()
    assert header == (
        "timestamp,ip,model,count,queue,compute_input,compute_infer,"
        "compute_output,request"
    )
    found: Counter[str] = Counter()
    for line in lines:
        _, ip, model, count, *_ = line.split(",")
        assert ip == "127.0.0.1"
        found[model] += int(count)
    assert found == {"network": 50, "snapshotter-stream": 50}


def test_a_model_that_is_not_there_is_told_on_entering(rig, tmp_path) -> None:
    with pytest.raises(ModelNotFound, match="nobody"):
        ServerMonitor("nobody", rig.calm.endpoint, tmp_path / "f").start()


def test_several_servers_are_watched_together(rig, tmp_path, tell) -> None:
    servers = [rig.calm, rig.serve("network")]
    path = tmp_path / "run.csv"
    with ServerMonitor("network", [s.endpoint for s in servers], path):
        for server, num in zip(servers, (30, 50), strict=True):
            send(server.endpoint, num)
    found: Counter[str] = Counter()
    for row in read(path):
        found[row.ip] += row.count
    tell(found)
    assert found == {
        servers[0].endpoint.metrics: 30,
        servers[1].endpoint.metrics: 50,
    }


def test_a_restart_in_between_is_survived(rig, tmp_path, tell) -> None:
    server = rig.serve("network")
    path = tmp_path / "run.csv"
    with ServerMonitor("network", server.endpoint, path, grace=60) as monitor:
        send(server.endpoint, 300)
        time.sleep(0.5)  # what a server does last, it may take with it
        rig.kill(server)
        server = rig.serve("network", at=server)
        send(server.endpoint, 200)
        monitor.check()
    tell(counts(read(path)))
    assert counts(read(path)) == {"network": 500}


def wait_for_the_end(monitor: ServerMonitor) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        monitor.check()
        time.sleep(0.02)


def test_a_killed_server_ends_the_monitor_with_an_error(
    rig, tmp_path, tell
) -> None:
    server = rig.serve("network")
    path = tmp_path / "run.parquet"
    monitor = ServerMonitor("network", server.endpoint, path, grace=2)
    monitor.start()
    send(server.endpoint, 100)
    time.sleep(0.5)
    rig.kill(server)
    killed = time.monotonic()
    with pytest.raises(MetricsUnavailable, match="refused"):
        wait_for_the_end(monitor)
    tell(noticed_after=f"{time.monotonic() - killed:.2f} s")
    with pytest.raises(MetricsUnavailable, match="refused"):
        monitor.stop()
    assert counts(read(path)) == {"network": 100}


def test_a_frozen_server_is_given_its_grace_and_no_more(
    rig, tmp_path, tell
) -> None:
    server = rig.serve("network")
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    strict = ServerMonitor("network", server.endpoint, second, grace=1)
    with ServerMonitor("network", server.endpoint, first, grace=20) as patient:
        send(server.endpoint, 50)
        strict.start()
        with rig.frozen(server):
            begin = time.monotonic()
            with pytest.raises(MetricsUnavailable, match="no answer"):
                wait_for_the_end(strict)
            noticed = time.monotonic()
            with pytest.raises(MetricsUnavailable):
                strict.stop()
            stopped = time.monotonic()
            patient.check()
        send(server.endpoint, 50)
    tell(
        noticed_after=f"{noticed - begin:.2f} s",
        stopped_within=f"{stopped - noticed:.2f} s",
    )
    assert stopped - noticed < 5
    assert counts(read(first)) == {"network": 100}


def test_leaving_is_quick_though_the_server_is_frozen(
    rig, tmp_path, tell
) -> None:
    server = rig.serve("network")
    monitor = ServerMonitor("network", server.endpoint, tmp_path / "a.csv")
    monitor.start()
    with rig.frozen(server):
        begin = time.monotonic()
        monitor.stop()
        took = time.monotonic() - begin
    tell(took=f"{took:.2f} s")
    assert took < 10


# The whole program: Ctrl-C and SIGKILL, under load.
PROGRAM = """
import sys
import numpy as np
from hermes.aeriel.client import InferenceClient
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.monitor import ServerMonitor

endpoint = Endpoint.load(sys.argv[1])
x = np.ones((1, 2, 32), np.float32)
with InferenceClient(endpoint, "network") as client:
    client.predict(x)
    with ServerMonitor("network", endpoint, sys.argv[2]) as monitor:
        print(repr(monitor).split()[-1][:-1], flush=True)
        while True:
            client.predict(x)
"""


@pytest.mark.parametrize("way", ["kill", "interrupt"])
def test_the_monitor_ends_with_its_program(rig, tmp_path, tell, way) -> None:
    rig.calm.endpoint.save(tmp_path / "endpoint.json")
    path = tmp_path / "run.parquet"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path / "endpoint.json", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as program:
        monitor = psutil.Process(int(program.stdout.readline()))
        time.sleep(1)
        if way == "kill":
            program.kill()
        else:
            program.send_signal(2)
        begin = time.monotonic()
        while monitor.is_running() and monitor.status() != "zombie":
            assert time.monotonic() < begin + 10
            time.sleep(0.02)
    tell(gone_after=f"{time.monotonic() - begin:.2f} s")
    assert counts(read(path))["network"] > 10


def test_a_table_of_all_models_knows_the_ensembles(rig, tell) -> None:
    server = rig.serve("stream")
    stream(server.endpoint, 5)
    worker = threading.Timer(1, stream, [server.endpoint, 100])
    worker.start()
    console = Console(file=io.StringIO(), width=100)
    found = live(server.endpoint, duration=4, console=console)
    worker.join()
    tell(found.bottleneck)
    steps = {step.model: step for step in found.steps}
    assert {n for n, step in steps.items() if step.is_ensemble} == {"stream"}
    assert {step.num_requests for step in steps.values()} == {100}
    assert found.bottleneck in {"network", "snapshotter-stream"}
    assert "stream (ensemble)" in console.file.getvalue()
