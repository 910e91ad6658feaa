"""What the tests of clouds share: a real Kubernetes control plane."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hermes.cloudbreak._access import NODE, Access, Type
from hermes.cloudbreak.errors import NotThere

sys.path.insert(0, str(Path(__file__).parent))

TESTING = Path(__file__).parents[3] / "scripts" / "testing"
SCRIPT, KUBELET = TESTING / "kubernetes.sh", TESTING / "_kubelet.py"
NAMESPACE = Type("v1", "Namespace")


class ControlPlane:
    """kube-apiserver, controller-manager, scheduler and etcd, on loopback.

    It lives in a folder of its own and ends when its stdin does, so that
    nothing is left by a test run that was killed.

    Attributes:
        kubeconfig: A file by which an administrator reaches it.
        server: Its address.
        ca: The certificate of its authority, as PEM.
        token: A bearer token that it accepts.
    """

    def __init__(self, build: Path, folder: Path) -> None:
        self._kubelets: dict[str, subprocess.Popen[str]] = {}
        self._errors = (folder / "serve.log").open("w+")
        self._process = subprocess.Popen(
            [SCRIPT, "serve", build, folder / "state"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # Ctrl-C is the tests'
        )
        line = self._process.stdout.readline().strip()
        if not line:
            self._process.wait(20)
            self._errors.seek(0)
            pytest.fail(f"no control plane: {self._errors.read()[-2000:]}")
        self.kubeconfig = Path(line)
        state = self.kubeconfig.parent
        self.ca = (state / "ca.crt").read_text()
        self.token = (state / "tokens.csv").read_text().partition(",")[0]
        self.access = Access.from_kubeconfig(self.kubeconfig)
        self.server = self.access.server

    def close(self) -> None:
        """End it, and all its nodes."""
        if self._process.stdin.closed:
            return
        for name in list(self._kubelets):
            self.remove_kubelet(name)
        self.access.close()
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
        self._errors.close()

    def add_node(
        self,
        name: str,
        *,
        gpus: int = 0,
        labels: dict[str, str] | None = None,
        taints: tuple[str, ...] = (),
        wait: bool = True,
    ) -> None:
        """Add a hollow node: a kubelet without containers.

        Args:
            name: Its name.
            gpus: How many GPUs it says to have.
            labels: Its labels.
            taints: ``"key=value:effect"`` of each of its taints.
            wait: Whether to return when it is Ready only.
        """
        options = []
        if labels:
            pairs = ",".join(f"{k}={v}" for k, v in labels.items())
            options.append(f"--node-labels={pairs}")
        if taints:
            options.append(f"--register-with-taints={','.join(taints)}")
        print(name, *options, file=self._process.stdin, flush=True)
        if gpus or wait:
            wait_until(lambda: self._find(name), f"node {name} to register")
        if gpus:
            self.set_gpus(name, gpus)
        if wait:
            wait_until(lambda: self._is_ready(name, gpus), f"node {name}")

    def add_kubelets(
        self,
        *names: str,
        gpus: int = 2,
        serve: bool = False,
        labels: str = "",
    ) -> None:
        """Add nodes whose pods become ready, or are real Tritons.

        See scripts/testing/_kubelet.py: hollow nodes run no probes, so that
        nothing that has a probe becomes ready on them.
        """
        for name in names:
            command = [sys.executable, KUBELET, self.kubeconfig, name]
            command += [f"--gpus={gpus}", f"--labels={labels}"]
            self._kubelets[name] = subprocess.Popen(
                [*command, *(["--serve"] if serve else [])],
                stdin=subprocess.PIPE,  # it ends when this does
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        for name in names:
            said = self._kubelets[name].stdout.readline().strip()
            assert said == name, f"no node {name}: it said {said!r}"

    def remove_kubelet(self, name: str) -> None:
        """Have such a node leave, with its pods."""
        kubelet = self._kubelets.pop(name)
        kubelet.stdin.close()
        kubelet.wait(60)
        kubelet.stdout.close()

    def set_gpus(self, name: str, gpus: int) -> None:
        """Have a node say that it has GPUs."""
        change = {"status": {"capacity": {"nvidia.com/gpu": str(gpus)}}}
        self.access.patch(NODE, name, change, part="status")

    def remove_node(self, name: str) -> None:
        """Have a node be gone, as after a preemption."""
        pid = self.kubeconfig.parent / f"node-{name}.pid"
        os.kill(int(pid.read_text()), signal.SIGKILL)
        self.access.delete(NODE, name)

    def _find(self, name: str) -> dict | None:
        try:
            return self.access.get(NODE, name)
        except NotThere:
            return None

    def _is_ready(self, name: str, gpus: int) -> bool:
        status = self._find(name)["status"]
        ready = {"type": "Ready", "status": "True"}.items()
        return any(
            ready <= each.items() for each in status.get("conditions", [])
        ) and int(status["allocatable"].get("nvidia.com/gpu", 0)) == int(gpus)


class FaultyProxy:
    """Plain HTTP between a client and the API server, with faults by number.

    Attributes:
        calls: Method and path of each request, in order.
        faults: What happens at the n-th of them, from 1: ``"lose"``: done, and
            the answer is lost; ``"kill"``, ``"kill-after"``: `client` is
            killed before or after it is done; a number: the answer, and
            nothing is done.
        client: The process to kill.
        kubeconfig: A file by which clients come here.
    """

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.calls: list[str] = []
        self.faults: dict[int, str | int] = {}
        self.client = 0
        self._lock = threading.Lock()
        self._upstream = urlsplit(plane.server).netloc
        self._tls = ssl.create_default_context(cadata=plane.ca)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args) -> None:
                pass

            def handle_any(self) -> None:
                proxy.handle(self)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever).start()
        self.kubeconfig = folder / "proxied"
        self.kubeconfig.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
            "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:"
            f"{self._server.server_port}'}}}}]\n"
            f"users: [{{name: u, user: {{token: {plane.token}}}}}]\n"
            "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Handle one request."""
        size = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(size)
        with self._lock:
            self.calls.append(f"{request.command} {request.path}")
            fault = self.faults.get(len(self.calls))
        request.close_connection = True
        if fault == "kill":
            os.kill(self.client, signal.SIGKILL)
            return
        if isinstance(fault, int):
            self.answer(request, fault, json.dumps({"message": "a fault"}))
            return
        status, answer = self.forward(request, body)
        if fault == "kill-after":
            os.kill(self.client, signal.SIGKILL)
        if fault not in ("lose", "kill-after"):
            self.answer(request, status, answer)

    def forward(self, request: BaseHTTPRequestHandler, body: bytes):
        connection = http.client.HTTPSConnection(
            self._upstream, context=self._tls, timeout=30
        )
        with contextlib.closing(connection):
            names = ("authorization", "content-type")
            headers = {n: request.headers[n] for n in names}
            connection.request(
                request.command,
                request.path,
                body,
                {n: v for n, v in headers.items() if v},
            )
            response = connection.getresponse()
            return response.status, response.read().decode()

    def answer(self, request, status: int, text: str) -> None:
        body = text.encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(body)


def wait_until(
    is_so: Callable[[], object], what: str, seconds: float = 60
) -> None:
    """Wait for something that a test needs."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


@pytest.fixture
def until() -> Callable[[Callable[[], object], str], None]:
    """Wait for something that a test needs."""
    return wait_until


@pytest.fixture(scope="session")
def control_plane(
    kubernetes_build: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """A control plane with two nodes of two GPUs, for pods that do nothing."""
    plane = ControlPlane(
        kubernetes_build, tmp_path_factory.mktemp("kubernetes")
    )
    _shared.append(plane)
    try:
        plane.add_kubelets("gpu-0", "gpu-1")
        yield plane
    finally:
        plane.close()


_shared: list[ControlPlane] = []


@pytest.hookimpl(trylast=True)  # after the fixtures
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the control plane with the last test of this folder.

    A quarter of a core would be its, for as long as all other tests take.
    """
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        for each in _shared:
            each.close()


@pytest.fixture
def start_control_plane(
    kubernetes_build: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], ControlPlane]:
    """Start one of a test's own, without nodes; the test closes it."""
    return lambda: ControlPlane(
        kubernetes_build, tmp_path_factory.mktemp("kubernetes")
    )


@pytest.fixture(scope="session")
def bucket(gcs_emulator: str) -> tuple[str, dict[str, str]]:
    """Models in a bucket, and by which variables a server reaches it."""
    from one_program import write_models

    return write_models(gcs_emulator), {
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": gcs_emulator
    }


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the user's is read."""
    for name in ("HOME", "CLOUDSDK_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of this test's own."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    access = control_plane.access
    named = {"apiVersion": "v1", "kind": "Namespace"}
    access.create({**named, "metadata": {"name": name}})
    accounts = Type("v1", "ServiceAccount")
    wait_until(
        lambda: access.list(accounts, namespace=name), f"account in {name}"
    )
    yield name
    access.delete(NAMESPACE, name)


@pytest.fixture
def access(control_plane: ControlPlane, namespace: str) -> Iterator[Access]:
    """Calls of the control plane, in a namespace of this test's own."""
    made = Access.from_kubeconfig(
        control_plane.kubeconfig, namespace=namespace
    )
    yield made
    made.close()


@pytest.fixture
def proxy(
    control_plane: ControlPlane, tmp_path: Path
) -> Iterator[FaultyProxy]:
    """A proxy to the control plane that has faults."""
    made = FaultyProxy(control_plane, tmp_path)
    yield made
    made.close()
