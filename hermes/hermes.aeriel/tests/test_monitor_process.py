"""The monitor's process, against a server of metrics that does as told."""

from __future__ import annotations

import contextlib
import http.server
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import psutil
import pytest
from rich.console import Console

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.errors import (
    MetricsUnavailable,
    ModelNotFound,
    MonitorDied,
    MonitorMisused,
    RecordUnwritable,
    ServerUnavailable,
)
from hermes.aeriel.monitor import ServerMonitor, live, read
from hermes.aeriel.monitor._cli import main
from hermes.aeriel.monitor._fetch import FetchFailed, fetch
from hermes.aeriel.testing import FakeModel, FakeTriton

SHAPE = ("FP32", [2])
MODEL = FakeModel.of("m", lambda x: x, {"x": SHAPE}, {"y": SHAPE})


class Metrics:
    """A server of metrics; its attributes are what it does.

    Attributes:
        count: Inferences of the model ``m``.
        status: How it answers.
        times: When it was asked.
    """

    def __init__(self) -> None:
        self.count = 0
        self.status = 200
        self.times: list[float] = []
        self.dribble = 0.0
        self.text = ""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.times.append(time.monotonic())
                body = outer.text or outer.body()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                for number in range(len(body)):
                    self.wfile.write(body[number : number + 1].encode())
                    time.sleep(outer.dribble)

            def handle(self):
                with contextlib.suppress(ConnectionError):
                    super().handle()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), Handler
        )
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    def body(self) -> str:
        names = ("nv_inference_count", "nv_inference_request_success")
        lines = [f'{n}{{model="m",version="1"}} {self.count}\n' for n in names]
        return "".join(lines)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    with contextlib.closing(Metrics()) as metrics:
        yield metrics


@pytest.fixture(scope="module")
def grpc() -> Iterator[str]:
    with FakeTriton(MODEL) as fake:
        yield fake.endpoint.grpc


@pytest.fixture
def endpoint(metrics, grpc) -> Endpoint:
    return Endpoint(grpc, grpc, metrics.address)


def counts(path) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in read(path):
        assert row.count >= 0
        found[row.ip] += row.count
    return found


def pid_of(monitor: ServerMonitor) -> int:
    return int(repr(monitor).split()[-1][:-1])


def wait_for(is_so, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["the run.csv", "the run.parquet"])
def test_what_is_done_inside_is_counted_and_nothing_else(
    tmp_path, metrics, endpoint, name
):
    path = tmp_path / name
    metrics.count = 1000
    with ServerMonitor("m", endpoint, path) as monitor:
        metrics.count += 7
        assert "running as process" in repr(monitor)
        if path.suffix == ".csv":
            assert path.read_text().startswith("timestamp,ip,model,count,")
        time.sleep(0.5)
        metrics.count += 500
    metrics.count += 10
    assert counts(path) == {metrics.address: 507}
    assert "stopped" in repr(monitor)
    monitor.stop()


def test_several_servers_have_their_own_rows(tmp_path, metrics, endpoint):
    with contextlib.closing(Metrics()) as other:
        second = Endpoint(endpoint.grpc, endpoint.grpc, other.address)
        with ServerMonitor("m", [endpoint, second], tmp_path / "f.csv"):
            metrics.count, other.count = 3, 4
    assert counts(tmp_path / "f.csv") == {metrics.address: 3, other.address: 4}


def test_counters_that_start_again_are_not_negative(
    tmp_path, metrics, endpoint
):
    metrics.count = 100
    with ServerMonitor("m", endpoint, tmp_path / "f.csv"):
        metrics.count = 140
        time.sleep(0.4)
        metrics.count = 30
    assert counts(tmp_path / "f.csv") == {metrics.address: 70}


def test_no_traffic_is_no_error_and_has_rows(tmp_path, metrics, endpoint):
    with ServerMonitor("m", endpoint, tmp_path / "f.csv", rate=5):
        time.sleep(0.5)
    assert counts(tmp_path / "f.csv") == {metrics.address: 0}
    assert len(read(tmp_path / "f.csv")) >= 3


def test_a_server_is_not_polled_faster_than_allowed(
    tmp_path, metrics, endpoint
):
    with ServerMonitor(
        "m", endpoint, tmp_path / "f.csv", max_request_rate=5, rate=100
    ):
        time.sleep(1)
        metrics.count = 3
    gaps = [b - a for a, b in pairwise(metrics.times)]
    assert len(gaps) >= 5
    assert min(gaps) > 0.2 - 0.02
    assert counts(tmp_path / "f.csv") == {metrics.address: 3}


def test_proxies_of_the_environment_are_not_asked(
    tmp_path, metrics, endpoint, monkeypatch
):
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with ServerMonitor("m", endpoint, tmp_path / "f.csv", grace=2):
        metrics.count = 3
    assert counts(tmp_path / "f.csv") == {metrics.address: 3}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"status": 503}, "503"),
        ({"text": "<html>it works</html>"}, "no metrics of Triton"),
        ({"dribble": 0.2}, "no answer within"),
    ],
)
def test_a_server_that_is_lost_ends_the_monitor_with_an_error(
    tmp_path, metrics, endpoint, fault, said
):
    path = tmp_path / "f.csv"
    monitor = ServerMonitor("m", endpoint, path, grace=1.5)

    def lose_the_server() -> None:
        with monitor:
            metrics.count = 5
            wait_for(lambda: counts(path).total() == 5)
            monitor.check()
            for name, value in fault.items():
                setattr(metrics, name, value)
            while True:
                monitor.check()
                time.sleep(0.02)

    begin = time.monotonic()
    with pytest.raises(MetricsUnavailable, match=said) as caught:
        lose_the_server()
    assert 1.2 < time.monotonic() - begin < 15
    assert metrics.address in str(caught.value)
    assert getattr(caught.value, "__notes__", []) == []
    assert counts(path).total() == 5
    with pytest.raises(MetricsUnavailable):
        monitor.stop()


@pytest.fixture
def losing(tmp_path, metrics, endpoint):
    """A monitor inside of which the server is lost, unnoticed."""

    @contextlib.contextmanager
    def losing() -> Iterator[None]:
        path = tmp_path / "f.csv"
        with ServerMonitor(
            "m", endpoint, path, grace=0.5, name="mine"
        ) as monitor:
            metrics.status = 500
            wait_for(lambda: "ended" in repr(monitor))
            yield

    return losing


def test_a_lost_server_is_told_when_leaving(losing):
    with pytest.raises(MetricsUnavailable, match="500"), losing():
        pass


def test_an_error_of_the_block_comes_first_and_has_ours_as_a_note(losing):
    with pytest.raises(KeyError) as caught, losing():
        raise KeyError
    (note,) = caught.value.__notes__
    assert note.startswith("mine: the metrics of")


def test_a_server_that_is_away_for_less_than_the_grace_is_forgiven(
    tmp_path, metrics, endpoint
):
    with ServerMonitor("m", endpoint, tmp_path / "f.csv", grace=20):
        metrics.status = 503
        time.sleep(0.5)
        metrics.status = 200
        metrics.count = 5
    assert counts(tmp_path / "f.csv").total() == 5


def test_an_end_that_could_not_be_read_is_a_warning(
    tmp_path, metrics, endpoint, caplog
):
    with (
        caplog.at_level(logging.WARNING, "hermes.aeriel.monitor"),
        ServerMonitor("m", endpoint, tmp_path / "f.csv"),
    ):
        metrics.status = 503
    assert "did not answer its last poll" in caplog.text
    assert "503" in caplog.text


def test_what_cannot_begin_says_so_on_entering(tmp_path, metrics, endpoint):
    path = tmp_path / "f.csv"
    nobody = Endpoint("127.0.0.1:9", "127.0.0.1:9", metrics.address)
    with pytest.raises(ModelNotFound, match="other"):
        ServerMonitor("other", endpoint, path).start()
    with pytest.raises(RecordUnwritable, match="nowhere"):
        ServerMonitor("m", endpoint, tmp_path / "nowhere" / "f.csv").start()
    with pytest.raises(ServerUnavailable):
        ServerMonitor("m", nobody, path, grace=0.5).start()
    metrics.status = 404
    with pytest.raises(MetricsUnavailable, match="404"):
        ServerMonitor("m", endpoint, path, grace=0.5).start()
    assert path.read_text().count("\n") == 1


@pytest.mark.parametrize("name", ["f.csv", "f.parquet"])
def test_a_disk_that_is_full_ends_the_monitor_with_an_error(
    tmp_path, endpoint, name
):
    monitor = ServerMonitor("m", endpoint, tmp_path / name).start()
    limit = psutil.RLIMIT_FSIZE, (300, 300)
    psutil.Process(pid_of(monitor)).rlimit(*limit)
    wait_for(lambda: "ended" in repr(monitor))
    for ask in monitor.check, monitor.stop:
        with pytest.raises(RecordUnwritable, match=r"f\..*File too large"):
            ask()


def test_a_monitor_is_started_once(tmp_path, endpoint):
    with ServerMonitor("m", endpoint, tmp_path / "f.csv") as monitor:  # noqa: SIM117
        with pytest.raises(MonitorMisused, match="started already"):
            monitor.start()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_ends_early_is_never_silent(
    tmp_path, metrics, endpoint, number
):
    path = tmp_path / "f.parquet"
    monitor = ServerMonitor("m", endpoint, path).start()
    metrics.count = 5
    time.sleep(0.4)
    os.kill(pid_of(monitor), number)
    wait_for(lambda: "ended" in repr(monitor))
    for ask in monitor.check, monitor.stop, monitor.stop:
        with pytest.raises(MonitorDied, match=r"signal 9|SIGTERM"):
            ask()
    # What was measured is there, in the file or beside it.
    left = path if number == signal.SIGTERM else f"{path}.partial"
    assert counts(left).total() == 5


def test_a_monitor_that_is_forgotten_ends_and_warns(tmp_path, endpoint):
    monitors = [ServerMonitor("m", endpoint, tmp_path / "f.csv").start()]
    process = psutil.Process(pid_of(monitors[0]))
    with pytest.warns(ResourceWarning, match="was not stopped"):
        monitors.clear()
    wait_for(lambda: process.status() == psutil.STATUS_ZOMBIE)


def test_ctrl_c_is_not_for_the_monitor(tmp_path, metrics, endpoint):
    with ServerMonitor("m", endpoint, tmp_path / "f.csv") as monitor:
        pid = pid_of(monitor)
        assert os.getsid(pid) != os.getsid(0)
        os.kill(pid, signal.SIGINT)
        time.sleep(0.3)
        monitor.check()
        metrics.count = 5
    assert counts(tmp_path / "f.csv").total() == 5


def test_a_frozen_monitor_is_killed_in_time(tmp_path, endpoint):
    monitor = ServerMonitor("m", endpoint, tmp_path / "f.csv").start()
    pid = pid_of(monitor)
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(MonitorDied, match="did not end within 1 s"):
        monitor.stop(timeout=1)
    assert time.monotonic() - begin < 5
    assert not psutil.pid_exists(pid)


# No guard of __main__: users' scripts have none.
PROGRAM = """
import os, sys, threading, time
from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.monitor import ServerMonitor

grpc, metrics, path, way = sys.argv[1:]
monitor = ServerMonitor("m", Endpoint(grpc, grpc, metrics), path)
with monitor:
    if way == "forked" and os.fork() == 0:
        time.sleep(600)
    print(repr(monitor).split()[-1][:-1], flush=True)
    if way == "raise":
        raise RuntimeError("of the program")
    sys.stdin.readline()
"""


@pytest.mark.parametrize("way", ["kill", "forked", "raise"])
def test_the_monitor_does_not_outlive_its_program(
    tmp_path, metrics, endpoint, way
):
    path = tmp_path / "the run.parquet"
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            PROGRAM,
            endpoint.grpc,
            metrics.address,
            path,
            way,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        process = psutil.Process(int(program.stdout.readline()))
        metrics.count = 5
        children = psutil.Process(program.pid).children()
        if way != "raise":
            program.kill()
        begin = time.monotonic()
        program.stdout.close()
        wait_for(
            lambda: not process.is_running() or process.status() == "zombie"
        )
        assert time.monotonic() - begin < 5
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    assert counts(path).total() == 5


def test_a_deadline_is_for_the_whole_answer(metrics):
    metrics.dribble = 0.05
    begin = time.monotonic()
    with pytest.raises(FetchFailed, match=r"within 0\.5 s"):
        fetch(metrics.address, 0.5)
    assert time.monotonic() - begin < 1.5


def test_a_connection_that_is_refused_says_so():
    with pytest.raises(FetchFailed, match="refused"):
        fetch("127.0.0.1:9", 1)


def test_live_shows_and_records(tmp_path, metrics, endpoint):
    metrics.count = 1000
    console = Console(file=io.StringIO(), width=80)

    def work() -> None:
        time.sleep(0.5)
        metrics.count += 40

    worker = threading.Thread(target=work)
    worker.start()
    path = tmp_path / "f.csv"
    found = live(endpoint, duration=1, rate=10, filename=path, console=console)
    worker.join()
    (step,) = found.steps
    assert (step.model, step.num_requests) == ("m", 40)
    assert counts(path).total() == 40
    assert f"all models on {metrics.address}" in console.file.getvalue()
    assert "bottleneck: m" in console.file.getvalue()


def test_live_ends_with_ctrl_c_and_counts_to_the_end(metrics, endpoint):
    def interrupt() -> None:
        time.sleep(1)
        metrics.count += 40
        os.kill(os.getpid(), signal.SIGINT)

    worker = threading.Thread(target=interrupt)
    worker.start()
    console = Console(file=io.StringIO())
    found = live(endpoint, "m", rate=0.5, console=console)
    worker.join()
    assert found.steps[0].num_requests == 40


def test_the_command_watches_records_and_plots(
    tmp_path, metrics, endpoint, capsys
):
    saved, record = tmp_path / "endpoint.json", tmp_path / "the run.csv"
    endpoint.save(saved)
    image = tmp_path / "out.png"
    options = ["--duration", "0.6", "--plot", str(image)]
    assert main([str(saved), "--model", "m", *options]) == 0
    assert image.stat().st_size > 0
    image.unlink()
    host = [metrics.address, "--grpc-port", endpoint.grpc.split(":")[1]]
    assert main([*host, "--record", str(record), *options]) == 0
    image.unlink()
    capsys.readouterr()
    assert main([str(record), "--plot", str(image), "--model", "m"]) == 0
    assert image.stat().st_size > 0
    assert "no requests" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["gone.csv"], 1, "No such file"),
        (["gone.json"], 1, "No such file"),
        (["not a host"], 1, "is no server"),
        (["a.csv", "b.csv"], 2, "one record"),
        (["127.0.0.1:9", "--grace", "0.3"], 1, "refused"),
    ],
)
def test_the_command_says_in_a_line_what_is_wrong(
    tmp_path, monkeypatch, capsys, arguments, status, said
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hermes-monitor: ")
    assert said in line


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [("rich", [], "cli"), ("matplotlib", ["--plot", "out.png"], "plot")],
)
def test_the_command_names_the_extra_that_is_missing(
    module, arguments, extra, tmp_path
):
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"sys.modules['{module}.figure'] = None\n"
        "from hermes.aeriel.monitor._cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, "host", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert f"extra '{extra}'" in line
