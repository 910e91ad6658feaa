"""A node of a Kubernetes cluster for tests, whose pods are local processes.

``_kubelet.py KUBECONFIG NAME [--gpus N] [--labels k=v,...] [--serve]``: joins
the cluster and says so; leaves it, with all its pods, when stdin ends.

It says of its pods what a kubelet says, serves their logs and forwards their
ports. With ``--serve`` a pod is a real Triton in the local runtime, with the
container's own arguments and variables, on an address of its own in
127.0.0.0/8; it is started again when it dies. Without, a pod is ready at once.
Images called ``broken/...`` fail as real ones do: see `BROKEN`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import itertools
import json
import os
import random
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from urllib3.exceptions import HTTPError

from hermes.aeriel.serve import serve
from hermes.cloudbreak._access import EVENT, EVERYWHERE, NODE, POD, Access
from hermes.cloudbreak.errors import CloudError, NotThere

BACK_OFF = "back-off 40s restarting failed container"
BROKEN = {
    "broken/missing": {"waiting": {
        "reason": "ImagePullBackOff",
        "message": 'Back-off pulling image "broken/missing"'}},
    "broken/crash": {"waiting": {
        "reason": "CrashLoopBackOff", "message": BACK_OFF}},
    "broken/memory": {"waiting": {
        "reason": "CrashLoopBackOff", "message": BACK_OFF}},
    "broken/secret": {"waiting": {
        "reason": "CreateContainerConfigError",
        "message": 'secret "no-such-secret" not found'}},
}  # fmt: skip
ENDED = {
    "broken/crash": {"exitCode": 1, "reason": "Error"},
    "broken/memory": {"exitCode": 137, "reason": "OOMKilled"},
}
CRASH_LOG = "loading models\nerror: failed to load 'network'\nexiting\n"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Pod(threading.Thread):
    """One pod, from when it is seen until it is gone."""

    def __init__(self, node: Node, manifest: dict) -> None:
        super().__init__(daemon=True)
        self.node, self.manifest = node, manifest
        meta = manifest["metadata"]
        self.name, self.namespace = meta["name"], meta["namespace"]
        self.address = f"127.{node.net}.{next(node.numbers)}"
        self.ending = threading.Event()
        self.server = None
        self.container = manifest["spec"]["containers"][0]

    def run(self) -> None:
        image = self.container["image"]
        with contextlib.suppress(CloudError):
            if image in BROKEN:
                self.break_down(image)
            elif self.node.serves:
                self.serve()
            else:
                self.tell({"running": {"startedAt": now()}}, is_ready=True)
        self.ending.wait()
        if self.server is not None:
            self.server.stop()
        with contextlib.suppress(CloudError):
            self.node.remove(self)

    def serve(self) -> None:
        """Run Triton, again and again."""
        # The entrypoint executes these; a command would take its place.
        program, *arguments = self.container["args"]
        if program != "tritonserver" or "command" in self.container:
            raise ValueError(f"{self.container}: no entrypoint runs that")
        (root,) = (a for a in arguments if a.startswith("--model-repository="))
        arguments.remove(root)
        env = {e["name"]: e["value"] for e in self.container.get("env", [])}
        for count in itertools.count():
            self.server = serve(
                root.partition("=")[2],
                host=self.address,
                server_args=arguments,
                env=env,
            )
            self.tell({"running": {"startedAt": now()}}, count=count)
            with contextlib.suppress(Exception):
                self.server.wait(60)
                self.tell({"running": {"startedAt": now()}}, True, count)
            while "running" in repr(self.server):
                if self.ending.wait(0.1):
                    return
            self.tell(
                {"waiting": {"reason": "CrashLoopBackOff"}}, False, count
            )
            if self.ending.wait(0.5):
                return

    def break_down(self, image: str) -> None:
        if image == "broken/missing":
            text = f'Failed to pull image "{image}": manifest unknown'
            self.node.tell_event(self, "Failed", text)
        self.tell(BROKEN[image], ended=ENDED.get(image), count=3)

    def logs(self) -> str:
        if self.container["image"] in ENDED:
            return CRASH_LOG
        return self.server.logs() if self.server else ""

    def tell(self, state, is_ready=False, count=0, ended=None) -> None:
        """Say what has become of it."""
        so = "True" if is_ready else "False"
        status = {
            "phase": "Running" if "running" in state else "Pending",
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": now(),
            "conditions": [
                {"type": kind, "status": value, "lastTransitionTime": now()}
                for kind, value in {
                    "Initialized": "True",
                    "PodScheduled": "True",
                    "ContainersReady": so,
                    "Ready": so,
                }.items()
            ],
            "containerStatuses": [{
                "name": self.container["name"],
                "image": self.container["image"],
                "imageID": "",
                "ready": is_ready,
                "started": is_ready,
                "restartCount": count,
                "state": state,
                "lastState": {"terminated": ended} if ended else {},
            }],
        }  # fmt: skip
        self.node.access.patch(
            POD,
            self.name,
            {"status": status},
            part="status",
            namespace=self.namespace,
        )


class Node:
    """The node, and the pods on it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.access = Access.from_kubeconfig(options.kubeconfig)
        self.name, self.gpus = options.name, options.gpus
        self.labels = dict(
            pair.split("=") for pair in options.labels.split(",") if pair
        )
        self.serves = options.serve
        self.net = f"{random.randint(1, 250)}.{random.randint(0, 250)}"  # noqa: S311
        self.numbers = itertools.count(1)
        self.pods: dict[str, Pod] = {}
        self.port = self.listen(Path(options.kubeconfig).parent)

    def listen(self, state: Path) -> int:
        """Answer the API server, by the certificate that it has itself."""
        node = self

        class Bound(Handler):
            pods = node.pods

        server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(
            state / "apiserver.crt", state / "apiserver.key"
        )
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_port

    def join(self) -> None:
        """Have the cluster know it."""
        self.access.create({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self.name,
                "labels": {"kubernetes.io/hostname": self.name, **self.labels},
            },
            "status": self.status(),
        })  # fmt: skip
        for work in (self.beat, self.follow):
            threading.Thread(target=work, daemon=True).start()

    def status(self) -> dict:
        has = {"cpu": "64", "memory": "256Gi", "pods": "110"}
        has["nvidia.com/gpu"] = str(self.gpus)
        return {
            "capacity": has,
            "allocatable": has,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            "conditions": [{
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "message": "",
                "lastHeartbeatTime": now(),
                "lastTransitionTime": now(),
            }],
        }  # fmt: skip

    def beat(self) -> None:
        while True:
            with contextlib.suppress(CloudError):
                change = {"status": self.status()}
                self.access.patch(NODE, self.name, change, part="status")
            time.sleep(8)

    def follow(self) -> None:
        """Start and end pods as the cluster wants."""
        mine = f"spec.nodeName={self.name}"
        while True:
            with contextlib.suppress(CloudError, OSError, HTTPError):
                for kind, pod in self.watch(mine):
                    self.see(kind, pod)
            time.sleep(0.1)

    def watch(self, fields: str) -> Iterator[tuple[str, dict]]:
        """Give pods, and what becomes of them, for a minute."""
        path = self.access._path(POD, EVERYWHERE)
        query = {"fieldSelector": fields}
        connection = self.access._connection
        listed = connection.request("GET", path, query).json()
        for each in listed.get("items", []):
            yield "ADDED", each
        query |= {"watch": "true", "timeoutSeconds": "60"}
        query["resourceVersion"] = listed["metadata"]["resourceVersion"]
        answer = connection._respond("GET", path, query, None, "", 90)
        rest = b""
        with contextlib.closing(answer):
            for piece in answer.stream(None):
                *lines, rest = (rest + piece).split(b"\n")
                for event in map(json.loads, lines):
                    if event["type"] == "ERROR":  # too old a version
                        return
                    yield event["type"], event["object"]

    def see(self, kind: str, manifest: dict) -> None:
        uid = manifest["metadata"]["uid"]
        pod = self.pods.get(uid)
        if kind == "DELETED" or "deletionTimestamp" in manifest["metadata"]:
            if pod is not None:
                pod.ending.set()
        elif pod is None:
            self.pods[uid] = Pod(self, manifest)
            self.pods[uid].start()

    def remove(self, pod: Pod) -> None:
        uid = pod.manifest["metadata"]["uid"]
        path = self.access._path(POD, pod.namespace, pod.name)
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        with contextlib.suppress(NotThere):
            self.access._connection.request("DELETE", path, {}, options)
        self.pods.pop(uid, None)

    def tell_event(self, pod: Pod, reason: str, message: str) -> None:
        self.access.create({
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {
                "name": f"{pod.name}.{random.getrandbits(40):x}",
                "namespace": pod.namespace,
            },
            "involvedObject": {
                "kind": "Pod",
                "name": pod.name,
                "namespace": pod.namespace,
                "uid": pod.manifest["metadata"]["uid"],
            },
            "reason": reason,
            "message": message,
            "type": "Warning",
            "lastTimestamp": now(),
        })  # fmt: skip

    def leave(self) -> None:
        for pod in list(self.pods.values()):
            if pod.server is not None:
                pod.server.stop()
        with contextlib.suppress(CloudError):
            self.access.delete(NODE, self.name)


class Handler(BaseHTTPRequestHandler):
    """What the API server asks a kubelet for."""

    pods: dict[str, Pod]
    protocol_version = "HTTP/1.1"
    rbufsize = 0  # or frames would hide in the buffer from select

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        _, verb, namespace, name, *_ = url.path.split("/")
        query = parse_qs(url.query)
        pod = next(
            (p for p in self.pods.values()
             if (p.namespace, p.name) == (namespace, name)), None
        )  # fmt: skip
        if pod is None:
            self.send_error(404)
        elif verb == "containerLogs":
            self.send_log(pod, int(query.get("tailLines", ["1000"])[0]))
        elif verb == "portForward":
            self.forward(pod, int(query["port"][0]))

    def send_log(self, pod: Pod, num_lines: int) -> None:
        lines = pod.logs().splitlines(keepends=True)[-num_lines:]
        body = "".join(lines).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def forward(self, pod: Pod, port: int) -> None:
        """Speak version 4 of the channels' protocol over a WebSocket."""
        self.close_connection = True
        try:
            backend = socket.create_connection((pod.address, port), 5)
        except OSError as error:
            body = f"error forwarding port {port} to pod: {error}".encode()
            self.send_response(500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        key = self.headers["Sec-WebSocket-Key"]
        magic = f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        digest = hashlib.sha1(magic.encode()).digest()  # noqa: S324
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header(
            "Sec-WebSocket-Accept", base64.b64encode(digest).decode()
        )
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        for channel in (0, 1):
            self.send_frame(bytes([channel]) + struct.pack("<H", port))
        with backend, contextlib.suppress(OSError, EOFError):
            self.pump(backend)

    def pump(self, backend: socket.socket) -> None:
        front = self.connection
        while True:
            if not front.pending():
                ready, _, _ = select.select([front, backend], [], [])
            if front.pending() or front in ready:
                opcode, data = self.read_frame()
                if opcode == 8:
                    return
                if opcode == 9:
                    self.send_frame(data, 10)
                elif data[:1] == b"\0":
                    backend.sendall(data[1:])
            else:
                data = backend.recv(1 << 16)
                if not data:
                    return
                self.send_frame(b"\0" + data)

    def read_frame(self) -> tuple[int, bytes]:
        first, second = self.read(2)
        size = second & 127
        if size == 126:
            (size,) = struct.unpack(">H", self.read(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self.read(8))
        mask = self.read(4) * (size // 4 + 1)
        data = int.from_bytes(self.read(size)) ^ int.from_bytes(mask[:size])
        return first & 15, data.to_bytes(size)

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.rfile.read(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def send_frame(self, data: bytes, opcode: int = 2) -> None:
        size = len(data)
        if size < 126:
            head = struct.pack(">BB", 128 | opcode, size)
        elif size < 1 << 16:
            head = struct.pack(">BBH", 128 | opcode, 126, size)
        else:
            head = struct.pack(">BBQ", 128 | opcode, 127, size)
        self.wfile.write(head + data)
        self.wfile.flush()


def main() -> None:
    """Be a node."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kubeconfig")
    parser.add_argument("name")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--labels", default="")
    parser.add_argument("--serve", action="store_true")
    node = Node(parser.parse_args())
    node.join()
    print(node.name, flush=True)
    sys.stdin.read()
    node.leave()
    os._exit(0)


if __name__ == "__main__":
    main()
