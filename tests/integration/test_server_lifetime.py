"""No server outlives the program that started it, however that one ends."""

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from scaling import write_model

from hermes.aeriel.errors import ServerDied, ServerStopped
from hermes.aeriel.serve import Server, serve

pytestmark = pytest.mark.triton

# By itself, without us, Triton takes three seconds to stop.
SECONDS = 15

PROGRAM = """
import os, sys, threading, time
from hermes.aeriel.serve import serve

def load(server):
    import numpy as np
    import tritonclient.grpc as grpcclient
    client = grpcclient.InferenceServerClient(server.endpoint.grpc)
    tensor = grpcclient.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
    while True:
        client.infer("double", [tensor])

moment, repository = sys.argv[1:]
server = serve(repository, free_ports=True)
if moment == "waiting":
    print("go", flush=True)
    server.wait()
    raise SystemExit("was ready before anybody interrupted it")
if moment != "starting":
    server.wait()
if moment == "loaded":
    threading.Thread(target=load, args=[server], daemon=True).start()
    time.sleep(0.5)
if moment == "forked" and os.fork() == 0:
    time.sleep(60)
print("go", flush=True)
sys.stdin.readline()
if moment == "raising":
    raise RuntimeError("of the program")
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    return write_model(root, config="max_batch_size: 4")


class Traces:
    """What a server leaves behind, unless it is ended as it should."""

    def __init__(self, parent: psutil.Process) -> None:
        deadline = time.monotonic() + SECONDS
        while not (found := self._find(parent)):
            assert time.monotonic() < deadline, "no tritonserver"
            time.sleep(0.02)
        self.server = found
        self.shell = found.parent()
        self.processes = [self.shell, *self.shell.children(recursive=True)]
        options = dict(
            option.split("=", 1) for option in found.cmdline() if "=" in option
        )
        self.ports = [
            int(options[f"--{name}-port"])
            for name in ("http", "grpc", "metrics")
        ]
        self.shm_prefix = options["--backend-config"].rpartition("=")[2]

    def _find(self, parent: psutil.Process) -> psutil.Process | None:
        for process in parent.children(recursive=True):
            if process.name() == "tritonserver":
                return process
        return None

    @property
    def session(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                member = os.getsid(process.pid) == self.shell.pid
                if member and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found

    @property
    def tidiers(self) -> list[psutil.Process]:
        """Those who wait to remove its shared memory."""
        found = []
        for process in psutil.process_iter():
            try:
                if self.shm_prefix in process.cmdline():
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def left(self) -> list[object]:
        shm = Path("/dev/shm").glob(f"{self.shm_prefix}*")  # noqa: S108
        ports = filter(is_open, self.ports)
        return [*self.session, *self.tidiers, *shm, *ports]

    def assert_gone(self, seconds: float = SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.left() == []


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Program:
    """A Python program that serves, and where it is."""

    def __init__(self, moment: str, repository: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, moment, str(repository)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def reach(self) -> Traces:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "go\n"
        return Traces(psutil.Process(self.process.pid))

    def end(self) -> str:
        _, errors = self.process.communicate(timeout=SECONDS)
        return errors


@pytest.fixture
def start(repository: Path) -> Iterator[object]:
    programs = []

    def start(moment: str) -> Program:
        programs.append(Program(moment, repository))
        return programs[-1]

    yield start
    for program in programs:
        for process in psutil.Process().children(recursive=True):
            process.kill()
        program.process.communicate()


@pytest.mark.parametrize("moment", ["starting", "ready", "loaded"])
def test_sigkill_of_the_program_ends_everything(start, moment: str) -> None:
    program = start(moment)
    traces = program.reach()
    if moment != "starting":
        assert any("stub" in process.name() for process in traces.processes)
    program.process.kill()
    traces.assert_gone()


def test_a_forked_child_does_not_keep_the_server_alive(start) -> None:
    program = start("forked")
    traces = program.reach()
    forks = [
        process
        for process in psutil.Process(program.process.pid).children()
        if process.name() != "bash"  # those that belong to the server
    ]
    program.process.kill()
    traces.assert_gone()
    assert [fork.is_running() for fork in forks] == [True]
    forks[0].kill()


def test_ctrl_c_while_waiting_ends_everything(start) -> None:
    program = start("waiting")
    traces = program.reach()
    began = time.monotonic()
    program.process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in program.end()
    assert time.monotonic() - began < 2
    traces.assert_gone()


def test_sigterm_of_the_program_ends_everything(start) -> None:
    program = start("ready")
    traces = program.reach()
    program.process.terminate()
    traces.assert_gone()


@pytest.mark.parametrize("moment", ["forgotten", "raising"])
def test_the_end_of_the_program_ends_everything(start, moment: str) -> None:
    program = start(moment)
    traces = program.reach()
    errors = program.end()
    assert ("of the program" in errors) == (moment == "raising")
    traces.assert_gone()


@pytest.fixture
def server(repository: Path) -> Iterator[Server]:
    with serve(repository, free_ports=True, wait=True) as server:
        yield server


def traces_of(server: Server) -> Traces:
    for child in psutil.Process().children():
        # Another test's shell may have ended, and not be waited for yet.
        if child.status() == psutil.STATUS_ZOMBIE or not any(
            word.startswith("--model-repository") for word in child.cmdline()
        ):
            continue
        found = Traces(child)
        if f":{found.ports[1]}" in server.endpoint.grpc:
            return found
    raise AssertionError(server)


def test_leaving_ends_everything(server: Server) -> None:
    traces = traces_of(server)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 1
    assert traces.left() == []
    assert server.poll() == 0
    server.stop()
    assert "stopped" in repr(server)
    assert "All models are stopped" in server.logs()
    with pytest.raises(ServerStopped, match="was stopped"):
        server.wait()


FINISHING = """
import pathlib
class TritonPythonModel:
    def execute(self, requests):
        return []
    def finalize(self):
        pathlib.Path(__file__).with_name("finished").touch()
"""


def test_a_models_own_code_finishes(tmp_path: Path) -> None:
    version = tmp_path / "models" / "own" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(FINISHING)
    (version.parent / "config.pbtxt").write_text(
        'backend: "python" instance_group { count: 1 kind: KIND_CPU }'
        'output { name: "y" data_type: TYPE_FP32 dims: [1] }'
    )
    with serve(tmp_path / "models", free_ports=True, wait=True) as server:
        pass
    assert (version / "finished").exists()
    assert server.poll() == 0


def test_a_server_that_has_given_up_is_not_waited_for(
    repository: Path,
) -> None:
    arguments = ["--exit-timeout-secs=0"]
    with serve(
        repository, None, None, None, arguments, free_ports=True, wait=True
    ) as server:
        began = time.monotonic()
    assert time.monotonic() - began < 1
    assert "Exit timeout expired" in server.logs()
    assert server.poll() == 0  # it was idle


def test_sigkill_of_tritonserver_leaves_no_stub(server: Server) -> None:
    traces = traces_of(server)
    traces.server.kill()
    traces.assert_gone(2)
    assert "exit code 137" in repr(server)
    with pytest.raises(ServerDied, match="SIGKILL"):
        server.wait()


def test_leaving_tells_of_a_server_that_has_died(repository: Path) -> None:
    server = serve(repository, free_ports=True, wait=True)
    traces_of(server).server.kill()
    until_dead(server)
    with pytest.raises(ServerDied, match=r"was ended by SIGKILL\n"), server:
        pass


def test_an_error_on_its_way_is_not_replaced(repository: Path) -> None:
    server = serve(repository, free_ports=True, wait=True)
    traces_of(server).server.kill()
    until_dead(server)
    with pytest.raises(ZeroDivisionError) as caught, server:
        raise ZeroDivisionError
    assert "meanwhile hermes-" in caught.value.__notes__[0]
    assert "SIGKILL" in caught.value.__notes__[0]


def until_dead(server: Server) -> None:
    deadline = time.monotonic() + SECONDS
    while "running" in repr(server):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_stub_does_not_end_the_server(server: Server) -> None:
    traces = traces_of(server)
    for process in traces.processes:
        if "stub" in process.name():
            process.kill()
    server.wait()
    server.stop()
    assert traces.left() == []


def test_sigkill_of_the_lifeline_ends_everything(server: Server) -> None:
    traces = traces_of(server)
    traces.shell.kill()
    traces.assert_gone()
    server.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_lifeline_ends_everything(
    server: Server, number: signal.Signals
) -> None:
    traces = traces_of(server)
    traces.shell.send_signal(number)
    traces.assert_gone()
    assert "exit code 0" in repr(server)
    server.stop()


def test_the_next_server_removes_what_a_killed_job_has_left(
    start, repository: Path
) -> None:
    """A batch system kills everything at once: nobody can tidy up."""
    program = start("ready")
    traces = program.reach()
    parent = psutil.Process(program.process.pid)
    everything = [parent, *parent.children(recursive=True)]
    for process in everything:
        process.suspend()
    for process in everything:
        process.kill()
    program.process.wait(SECONDS)
    deadline = time.monotonic() + SECONDS
    while traces.session:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lock = Path("/dev/shm", f"{traces.shm_prefix}lock")  # noqa: S108
    assert lock in traces.left()
    long_ago = time.time() - 3600
    os.utime(lock, (long_ago, long_ago))
    serve(repository, free_ports=True).stop()
    assert traces.left() == []


def test_a_frozen_server_is_killed(server: Server) -> None:
    traces = traces_of(server)
    traces.server.suspend()
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 20
    assert traces.left() == []


def test_a_forgotten_server_warns_and_ends(repository: Path) -> None:
    server = serve(repository, free_ports=True)
    traces = traces_of(server)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del server
    assert "was not stopped" in str(caught[0].message)
    assert caught[0].category is ResourceWarning
    traces.assert_gone()


# In programs of their own: in a fork of pytest's process, what other tests
# have left in native libraries is there without the threads it counts on.
FORKS = """
import os, signal, sys, threading, time
import tritonclient.grpc as grpcclient
from hermes.aeriel.serve import serve

def stopping(server):
    server.wait(5)
    server.stop()
    return "running" in repr(server)

def waiting(server):
    server.wait(60)
    return True

what, repository = sys.argv[1:]
run = {"stopping": stopping, "waiting": waiting}[what]
with serve(repository, free_ports=True) as server:
    if what == "stopping":
        server.wait(60)
        # In forks of a process that has used grpcio, grpcio may hang for ever.
        # None of its threads may be inside it then, or the fork may crash.
        with grpcclient.InferenceServerClient(server.endpoint.grpc) as client:
            assert client.is_server_ready()
    else:
        thread = threading.Thread(target=server.wait, args=[60])
        thread.start()
        time.sleep(0.2)
    child = os.fork()
    if child == 0:
        signal.alarm({"stopping": 15, "waiting": 75}[what])
        try:
            good = run(server)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            good = False
        os._exit(0 if good else 1)
    _, status = os.waitpid(child, 0)
    if what == "waiting":
        thread.join(60)
    server.wait(2)  # it is still there
    print("child", os.waitstatus_to_exitcode(status), repr(server))
"""


def fork_in_a_program(what: str, repository: Path) -> str:
    program = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS, what, str(repository)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert program.returncode == 0, program.stderr
    return program.stdout + program.stderr


def test_a_fork_cannot_stop_its_parents_server(repository: Path) -> None:
    told = fork_in_a_program("stopping", repository)
    assert told.startswith("child 0 ")
    assert "running" in told


def test_a_fork_may_wait_while_its_parent_does(repository: Path) -> None:
    assert fork_in_a_program("waiting", repository).startswith("child 0 ")
