"""What can be done with one Kubernetes cluster.

Objects are plain dictionaries, as they stand in YAML.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from hermes.cloudbreak._answers import MANAGER, Manifest
from hermes.cloudbreak._kubernetes import Connection, WebSocket
from hermes.cloudbreak.errors import NotThere

__all__ = (
    "EVENT",
    "NODE",
    "POD",
    "SERVICE",
    "STATEFUL_SET",
    "Access",
    "Type",
)

# Instead of a namespace, for lists: all of them.
EVERYWHERE = "*"

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


class Type(NamedTuple):
    """A kind of objects, in Kubernetes' words."""

    api_version: str
    kind: str


EVENT = Type("v1", "Event")
NODE = Type("v1", "Node")
POD = Type("v1", "Pod")
SERVICE = Type("v1", "Service")
STATEFUL_SET = Type("apps/v1", "StatefulSet")


class Access:
    """Calls of one cluster. Each has a time limit; threads may share it.

    Every call may raise `CloudUnavailable` (no answer, 429, 5xx, a conflict:
    try again) and `Refused` (401, 403, 422 and the like: do not).

    Args:
        connection: The wire to it.
        namespace: Where objects are that do not say so.
    """

    def __init__(
        self, connection: Connection, namespace: str = "default"
    ) -> None:
        self._connection = connection
        self.namespace = namespace
        self._types: dict[str, dict[str, tuple[str, bool]]] = {}

    def __repr__(self) -> str:
        return f"<Access to {self.server}, namespace {self.namespace}>"

    @classmethod
    def to_server(
        cls,
        server: str,
        *,
        ca: str,
        token: Callable[[], str],
        namespace: str = "default",
    ) -> Access:
        """Reach a cluster by its address.

        Args:
            server: ``"https://host:port"``.
            ca: Certificate of its authority, as PEM.
            token: Gives a bearer token: before the first call, and again
                whenever the cluster has answered 401.
            namespace: Where objects are that do not say so.
        """
        return cls(Connection.to_server(server, ca, token), namespace)

    @classmethod
    def from_kubeconfig(
        cls,
        path: str | os.PathLike[str] | None = None,
        context: str | None = None,
        namespace: str | None = None,
    ) -> Access:
        """Reach a cluster as ``kubectl`` does.

        Args:
            path: The file; the variable KUBECONFIG, else ``~/.kube/config``,
                if None.
            context: Which of its contexts; its current one if None.
            namespace: Where objects are that do not say so; that of the
                context if None.

        Raises:
            InvalidSpec: If there is no such file or context.
        """
        named = os.fspath(path or os.environ.get("KUBECONFIG") or "")
        named = named or str(Path.home() / ".kube" / "config")
        made, found = Connection.from_kubeconfig(named, context)
        return cls(made, namespace or found)

    @property
    def server(self) -> str:
        """Its address."""
        return self._connection.server

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def supports(self, api_version: str) -> bool:
        """Whether the cluster has this version of a group of kinds."""
        try:
            self._find_types(api_version)
        except NotThere:
            return False
        return True

    def get(
        self, type_: Type, name: str, namespace: str | None = None
    ) -> Manifest:
        """Get one object.

        Raises:
            NotThere: If there is none.
        """
        path = self._path(type_, namespace, name)
        return self._connection.request("GET", path).json()

    def list(
        self,
        type_: Type,
        labels: str = "",
        *,
        fields: str = "",
        namespace: str | None = None,
    ) -> list[Manifest]:
        """List objects that have labels, by Kubernetes' selectors."""
        query = {"labelSelector": labels, "fieldSelector": fields}
        path = self._path(type_, namespace)
        return list(
            self._connection.request("GET", path, query)
            .json()
            .get("items", [])
        )

    def create(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Create an object, and give it as the cluster has it.

        Raises:
            AlreadyThere: If there is one of that name.
        """
        path = self._path_of(manifest, with_name=False)
        query = {"fieldManager": MANAGER, **_dry(dry_run)}
        return self._connection.request("POST", path, query, manifest).json()

    def apply(
        self,
        manifest: Manifest,
        *,
        force: bool = True,
        dry_run: bool = False,
    ) -> Manifest:
        """Have an object be so, whether it is there or not.

        Server-side apply: fields that others own and this does not name stay
        as they are; those that it names become ours, and those that it named
        before and names no more go.

        Args:
            manifest: The object.
            force: Whether fields that others own become ours, too; else that
                is a conflict, and `CloudUnavailable`.
            dry_run: Whether to ask only what would become of it.
        """
        path = self._path_of(manifest)
        query = {
            "fieldManager": MANAGER,
            "force": "true" if force else "",
            **_dry(dry_run),
        }
        return self._connection.request(
            "PATCH", path, query, manifest, _APPLY
        ).json()

    def patch(
        self,
        type_: Type,
        name: str,
        change: Manifest,
        *,
        part: str = "",
        namespace: str | None = None,
    ) -> Manifest:
        """Change some fields of an object, or of a part such as ``status``."""
        path = self._path(type_, namespace, name) + (part and f"/{part}")
        return self._connection.request(
            "PATCH", path, {}, change, _MERGE
        ).json()

    def scale(
        self,
        type_: Type,
        name: str,
        replicas: int,
        namespace: str | None = None,
    ) -> None:
        """Have an object have so many replicas."""
        change = {"spec": {"replicas": replicas}}
        self.patch(type_, name, change, part="scale", namespace=namespace)

    def delete(
        self,
        type_: Type,
        name: str,
        *,
        uid: str = "",
        namespace: str | None = None,
    ) -> None:
        """Ask for the end of an object, which comes after all that it owns.

        Args:
            type_: Its kind.
            name: Its name.
            uid: Which object of that name; whichever it is if "".
            namespace: Where.

        Raises:
            NotThere: If there is none, or another one.
        """
        options: Manifest = {"propagationPolicy": "Foreground"}
        if uid:
            options["preconditions"] = {"uid": uid}
        self._connection.request(
            "DELETE", self._path(type_, namespace, name), {}, options
        )

    def logs(
        self,
        pod: str,
        *,
        num_lines: int = 100,
        previous: bool = False,
        container: str = "",
        namespace: str | None = None,
    ) -> str:
        """Read the end of a container's log.

        Args:
            pod: Name of its pod.
            num_lines: How much of it.
            previous: Whether that of the one before the last restart.
            container: Its name, where the pod has several.
            namespace: Where.
        """
        query = {
            "tailLines": str(num_lines),
            "previous": "true" if previous else "",
            "container": container,
        }
        path = self._path(POD, namespace, pod) + "/log"
        return self._connection.request("GET", path, query).body.decode(
            errors="replace"
        )

    def connect(
        self, pod: str, port: int, namespace: str | None = None
    ) -> WebSocket:
        """Connect to a port of a pod, through the cluster's own server.

        Returns:
            Messages whose first byte is 0 for data and 1 for errors; the first
            of each kind only repeats the port.
        """
        path = self._path(POD, namespace, pod)
        return self._connection.upgrade(f"{path}/portforward?ports={port}")

    def _path_of(self, manifest: Manifest, with_name: bool = True) -> str:
        type_ = Type(manifest["apiVersion"], manifest["kind"])
        meta = manifest["metadata"]
        name = meta["name"] if with_name else ""
        return self._path(type_, meta.get("namespace"), name)

    def _path(self, type_: Type, namespace: str | None, name: str = "") -> str:
        found = self._find_types(type_.api_version).get(type_.kind)
        if found is None:
            raise NotThere(
                f"{self.server} has no {type_.kind} in {type_.api_version}"
            )
        plural, is_namespaced = found
        parts = [_root(type_.api_version)]
        if is_namespaced and namespace != EVERYWHERE:
            parts += ["namespaces", quote(namespace or self.namespace, "")]
        parts += [plural, *([quote(name, "")] if name else [])]
        return "/".join(parts)

    def _find_types(self, api_version: str) -> dict[str, tuple[str, bool]]:
        if api_version not in self._types:
            listed = self._connection.request("GET", _root(api_version)).json()
            self._types[api_version] = {
                each["kind"]: (each["name"], each["namespaced"])
                for each in listed.get("resources", [])
                if "/" not in each["name"]  # not status, scale and the like
            }
        return self._types[api_version]


def _root(api_version: str) -> str:
    return f"/{'apis' if '/' in api_version else 'api'}/{api_version}"


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}
