"""What the tests of clouds share: a real Kubernetes control plane."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hermes.cloudbreak._access import NODE, Access, Type
from hermes.cloudbreak.errors import NotThere

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

    def add_kubelet(
        self,
        name: str,
        *,
        gpus: int = 2,
        serve: bool = False,
        labels: str = "",
    ) -> None:
        """Add a node whose pods become ready, or are real Tritons.

        See scripts/testing/_kubelet.py: hollow nodes run no probes, so that
        nothing that has a probe becomes ready on them.
        """
        command = [sys.executable, str(KUBELET), str(self.kubeconfig), name]
        command += [f"--gpus={gpus}", f"--labels={labels}"]
        kubelet = subprocess.Popen(
            [*command, *(["--serve"] if serve else [])],
            stdin=subprocess.PIPE,  # it ends when this does
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._kubelets[name] = kubelet
        assert kubelet.stdout.readline().strip() == name

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


def wait_until(
    is_so: Callable[[], object], what: str, seconds: float = 60
) -> None:
    """Wait for something that a test needs."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def control_plane(
    kubernetes_build: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """A control plane with two nodes of two GPUs, for pods that do nothing."""
    plane = ControlPlane(
        kubernetes_build, tmp_path_factory.mktemp("kubernetes")
    )
    try:
        for name in ("gpu-0", "gpu-1"):
            plane.add_kubelet(name)
        yield plane
    finally:
        plane.close()


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
