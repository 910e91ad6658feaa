"""``serve()`` with a real Triton: where it listens, and what goes wrong."""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from scaling import write_model

from hermes.aeriel.errors import (
    PortTaken,
    RepositoryUnusable,
    RuntimeStale,
    RuntimeUnusable,
    ServerDied,
    ServerTimeout,
)
from hermes.aeriel.serve import Server, serve
from hermes.aeriel.serve._manifest import MANIFEST
from hermes.aeriel.serve._runtimes import ManagedRuntime, find_runtime

pytestmark = pytest.mark.triton


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("models")
    options = {"gpus": [], "name": "mine", "env": {"HERMES_TEST": "a b"}}
    with serve(write_model(root), free_ports=True, **options) as server:
        yield server.wait()


def triton(server: Server) -> psutil.Process:
    port = server.endpoint.grpc.rpartition(":")[2]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for process in psutil.Process().children(recursive=True):
            if process.name() == "tritonserver" and (
                f"--grpc-port={port}" in process.cmdline()
            ):
                return process
    raise AssertionError("no tritonserver")


def listening(server: Server) -> set[tuple[str, int]]:
    return {
        # IPv4 through a socket that speaks IPv6 too
        (address.laddr.ip.removeprefix("::ffff:"), address.laddr.port)
        for address in triton(server).net_connections("tcp")
        if address.status == psutil.CONN_LISTEN
    }


def of_extras(folder: str, names: list[str]) -> set[str]:
    """Ten thousand files that are nothing to the models of these tests."""
    large = {"nvidia", "tensorflow", "torch"}
    return large & {*names} if folder.endswith("site-packages") else set()


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the runtime, to be damaged."""
    found = find_runtime(os.environ)
    if not isinstance(found, ManagedRuntime):
        pytest.skip("needs a managed runtime")
    copy = tmp_path / "runtime"
    shutil.copytree(
        found.prefix,
        copy,
        symlinks=True,
        copy_function=os.link,
        ignore=of_extras,
    )
    monkeypatch.setenv("HERMES_TRITON", str(copy))
    yield copy
    shutil.rmtree(copy)


def test_the_server_listens_on_loopback_only(server: Server) -> None:
    addresses = listening(server)
    assert {address for address, _ in addresses} == {"127.0.0.1"}
    endpoint = server.endpoint
    assert {f"{address}:{port}" for address, port in addresses} == {
        endpoint.http,
        endpoint.grpc,
        endpoint.metrics,
    }


def test_the_server_may_be_opened_to_the_network(repository: Path) -> None:
    everywhere = "0.0.0.0"  # noqa: S104
    with serve(repository, free_ports=True, host=everywhere) as server:
        server.wait()
        addresses = {address for address, _ in listening(server)}
        assert addresses == {everywhere, "::"}
        assert server.endpoint.grpc.startswith(socket.gethostname() + ":")


def test_waiting_again_returns_at_once(server: Server) -> None:
    began = time.monotonic()
    assert server.wait(1) is server
    assert time.monotonic() - began < 0.5


def test_a_server_tells_what_it_is(server: Server) -> None:
    assert repr(server).startswith("<Server mine-")
    assert repr(server).endswith(f"{server.endpoint.grpc}, running>")


def test_logs_can_be_cut(server: Server) -> None:
    assert "successfully loaded 'double'" in server.logs()
    assert server.logs().endswith(server.logs(tail=2))
    assert len(server.logs(tail=2).splitlines()) == 2
    assert server.logs(tail=0) == ""


def test_options_reach_the_environment(server: Server) -> None:
    environ = triton(server).environ()
    assert environ["CUDA_VISIBLE_DEVICES"] == ""
    assert environ["HERMES_TEST"] == "a b"


def test_our_python_is_kept_from_the_stubs(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = tmp_path / "poison"
    poison.mkdir()
    for name in ("numpy", "onnxruntime", "json", "hermes_states"):
        (poison / f"{name}.py").write_text("raise SystemExit('poisoned')")
    monkeypatch.setenv("PYTHONPATH", str(poison))
    monkeypatch.setenv("PYTHONHOME", str(poison))
    monkeypatch.chdir(poison)
    with serve(repository, free_ports=True) as server:
        server.wait(60)


def test_a_proxy_plays_no_part(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    with serve(repository, free_ports=True) as server:
        server.wait(60)


def test_any_path_will_do(tmp_path: Path) -> None:
    root = tmp_path / """a b'c"d$(exit 3);é&"""
    log = tmp_path / "the log's file"
    log.write_text("before\n")
    with serve(write_model(root), free_ports=True, log_file=log) as server:
        server.wait(60)
        assert "before" not in server.logs()
    assert log.read_text() == "before\n" + server.logs()


def test_the_servers_own_paths_will_do(
    tmp_path: Path,
    repository: Path,
    runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = tmp_path / "my runtime's $HOME"
    runtime.rename(odd)
    monkeypatch.setenv("HERMES_TRITON", str(odd))
    with serve(repository, free_ports=True) as server:
        server.wait(60)
    odd.rename(runtime)


def test_a_model_whose_name_a_shell_takes_apart_is_refused(
    repository: Path,
) -> None:
    (repository / "a; touch b" / "1").mkdir(parents=True)
    with pytest.raises(RepositoryUnusable, match="'a; touch b'"):
        serve(repository, free_ports=True)


def test_ports_of_the_arguments_are_used(repository: Path) -> None:
    port = free_port()
    arguments = ["--grpc-port", str(port), "--log-verbose=0"]
    with serve(repository, server_args=arguments, free_ports=True) as server:
        server.wait(60)
        assert server.endpoint.grpc == f"127.0.0.1:{port}"


def test_a_taken_port_is_named_before_anything_starts(
    repository: Path,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"http.*:{port}.*free_ports=True"):
            serve(repository, server_args=[f"--http-port={port}"])


def steal(port: int) -> socket.socket:
    thief = socket.socket()
    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    thief.bind(("127.0.0.1", port))
    thief.listen()
    return thief


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("name", ["http", "grpc", "metrics"])
def test_a_port_lost_on_the_way_is_replaced(
    repository: Path, name: str
) -> None:
    with serve(repository, free_ports=True) as server:
        lost = server.endpoint
        with steal(port_of(getattr(lost, name))):
            server.wait(60)
            assert not {*vars(lost).values()} & {
                *vars(server.endpoint).values()
            }
            assert "already in use" not in server.logs()


def test_a_given_port_lost_on_the_way_is_explained(repository: Path) -> None:
    ports = {"http": free_port(), "grpc": free_port(), "metrics": free_port()}
    arguments = [f"--{name}-port={port}" for name, port in ports.items()]
    with (
        serve(repository, server_args=arguments) as server,
        steal(ports["metrics"]),
        pytest.raises(ServerDied, match="use free_ports=True"),
    ):
        server.wait(60)


def test_a_given_port_among_free_ones_may_be_lost(repository: Path) -> None:
    arguments = [f"--grpc-port={free_port()}"]
    with (
        serve(repository, server_args=arguments, free_ports=True) as server,
        steal(port_of(server.endpoint.grpc)),
        pytest.raises(ServerDied, match=r"lost a port: .*cannot bind"),
    ):
        server.wait(60)


def test_nobody_is_given_the_ports_while_models_load(
    repository: Path,
) -> None:
    with serve(repository, free_ports=True) as server:
        port = int(server.endpoint.grpc.rpartition(":")[2])
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        server.wait(60)


def test_a_broken_model_is_explained_soon_after_triton_ends(
    repository: Path,
) -> None:
    (repository / "double" / "1" / "model.onnx").write_bytes(b"junk")
    with serve(repository, free_ports=True) as server:
        process = triton(server)
        with pytest.raises(ServerDied) as caught:
            server.wait(60)
        assert not process.is_running()
        message = str(caught.value)
        assert "ended with exit code 1" in message
        assert "model 'double' failed to load" in message
        assert "Protobuf parsing failed" in message
        assert message.endswith("failed to load all models")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("this is { no", 'has no field named "this"'),
        ('platform: "tensorrt_plan"', "has no backend for the model's"),
    ],
)
def test_a_bad_configuration_is_explained(
    repository: Path, text: str, expected: str
) -> None:
    (repository / "double" / "config.pbtxt").write_text(text)
    with (
        serve(repository, free_ports=True) as server,
        pytest.raises(ServerDied, match=expected),
    ):
        server.wait(60)


def test_an_unknown_option_is_explained(repository: Path) -> None:
    arguments = ["--nonsense"]
    with (
        serve(repository, free_ports=True, server_args=arguments) as server,
        pytest.raises(ServerDied, match="unrecognized option '--nons"),
    ):
        server.wait(60)


def test_serve_stops_a_server_that_does_not_get_ready(
    repository: Path,
) -> None:
    (repository / "double" / "1" / "model.onnx").write_bytes(b"junk")
    before = psutil.Process().children()
    with pytest.raises(ServerDied, match="failed to load"):
        serve(repository, free_ports=True, wait=True)
    assert set(psutil.Process().children()) <= set(before)


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_the_timeout_is_kept(repository: Path, seconds: float) -> None:
    with serve(repository, free_ports=True) as server:
        began = time.monotonic()
        with pytest.raises(ServerTimeout, match=f"within {seconds:g} s"):
            server.wait(seconds)
        assert time.monotonic() - began < 1.1 * seconds + 0.05
        server.wait(60)


def test_the_timeout_is_kept_with_a_frozen_server(repository: Path) -> None:
    with serve(repository, free_ports=True) as server:
        process = triton(server.wait())
        process.suspend()
        began = time.monotonic()
        with pytest.raises(ServerTimeout, match="end of its log"):
            server.wait(2)
        assert time.monotonic() - began < 2.2
        process.resume()
        server.wait(10)


@pytest.mark.parametrize(
    "part",
    ["lib", "venv", "bin/tritonserver", "backends/onnxruntime/model.py"],
)
def test_half_a_runtime_is_noticed(
    repository: Path, runtime: Path, part: str
) -> None:
    lost = runtime / part
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    with pytest.raises(RuntimeUnusable, match=r"missing.*serve install"):
        serve(repository, free_ports=True)


def test_a_runtime_without_manifest_is_incomplete(
    repository: Path, runtime: Path
) -> None:
    (runtime / MANIFEST).unlink()
    with pytest.raises(RuntimeUnusable, match=r"incomplete.*serve install"):
        serve(repository, free_ports=True)


def change_manifest(runtime: Path, **changes: object) -> None:
    manifest = json.loads((runtime / MANIFEST).read_text())
    (runtime / MANIFEST).unlink()
    text = json.dumps({**manifest, **changes})
    (runtime / MANIFEST).write_text(text)


def test_a_runtime_of_another_version_is_stale(
    repository: Path, runtime: Path
) -> None:
    change_manifest(runtime, digest="0" * 12)
    with pytest.raises(RuntimeStale, match=r"another version.*serve install"):
        serve(repository, free_ports=True)


def test_a_missing_libpython_is_named(repository: Path, runtime: Path) -> None:
    change_manifest(runtime, libpython="/gone/libpython3.11.so.1.0")
    for link in (runtime / "lib").glob("libpython*"):
        link.unlink()
    with pytest.raises(RuntimeUnusable, match="libpython is missing: /gone"):
        serve(repository, free_ports=True)


def test_a_missing_interpreter_is_named(
    repository: Path, runtime: Path
) -> None:
    for name in ("python", "python3"):
        (runtime / "venv" / "bin" / name).unlink()
    with pytest.raises(RuntimeUnusable, match=r"the Python 3\.\d+ .* is gone"):
        serve(repository, free_ports=True)


def test_a_stub_that_cannot_start_is_noticed(
    repository: Path, runtime: Path
) -> None:
    """Triton itself would wait for it for ever."""
    stub = runtime / "backends" / "python" / "triton_python_backend_stub"
    stub.unlink()
    stub.write_text(
        "#!/bin/sh\n"
        'echo "$0: error while loading shared libraries: libpython3.11.so.1.0:'
        ' cannot open shared object file: No such file or directory" >&2\n'
        "exit 127\n"
    )
    stub.chmod(0o755)
    change_manifest(runtime, files={})
    with (
        serve(repository, free_ports=True) as server,
        pytest.raises(ServerDied, match=r"backend did not start: .*libpy"),
    ):
        server.wait(20)


def test_a_tritonserver_on_the_path_is_used_as_it_is(
    repository: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runtime / MANIFEST).unlink()
    venv = runtime / "venv" / "bin"
    monkeypatch.delenv("HERMES_TRITON")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(runtime / "lib"))
    monkeypatch.setenv(
        "PATH", f"{runtime / 'bin'}:{venv}:{os.environ['PATH']}"
    )
    with serve(repository, free_ports=True) as server:
        process = triton(server.wait(60))
        assert process.exe() == str(runtime / "bin" / "tritonserver")
