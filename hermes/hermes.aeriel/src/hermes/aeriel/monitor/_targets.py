"""Which servers and which models are meant; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from hermes.aeriel.client._describe import steps
from hermes.aeriel.endpoint import Endpoint, EndpointLike
from hermes.aeriel.errors import InvalidEndpoint, InvalidMonitorOption
from hermes.aeriel.monitor._rows import Watched

__all__ = (
    "Address",
    "Config",
    "Target",
    "expand",
    "find_targets",
    "leaves",
)

Address = str | EndpointLike
Config = Callable[[str, int | None], Mapping[str, Any]]
"""A model's configuration, by its name and version."""


@runtime_checkable
class _HasPorts(Protocol):
    @property
    def grpc(self) -> str: ...

    @property
    def metrics(self) -> str: ...


@dataclass(frozen=True)
class Target:
    """One server.

    Attributes:
        name: What it is called in rows and messages.
        metrics: ``"host:port"`` of its metrics.
        grpc: ``"host:port"`` of its gRPC service.
    """

    name: str
    metrics: str
    grpc: str


def find_targets(
    ips: Address | Iterable[Address], grpc_port: int, metrics_port: int
) -> tuple[Target, ...]:
    """The servers that a user means.

    Args:
        ips: One or several of: a host, ``"host:port"`` of its metrics, or an
            object with ``grpc`` and ``metrics`` addresses.
        grpc_port: The gRPC port of those that name none.
        metrics_port: The metrics port of those that name none.

    Raises:
        InvalidMonitorOption: If there is none, one twice, or no such thing.
    """
    several = _several(ips)
    found = tuple(_target(ip, grpc_port, metrics_port) for ip in several)
    if not found or len({target.metrics for target in found}) < len(found):
        msg = f"ips={ips!r}: give each server once, and at least one"
        raise InvalidMonitorOption(msg)
    return found


def expand(
    name: str, version: int | None, config: Config
) -> tuple[Watched, ...]:
    """A model, and if it is an ensemble all that it runs, in its order.

    Args:
        name: Name of the model.
        version: Its version; None for all.
        config: Asked for the model's configuration, and for its steps'.
    """
    found: dict[tuple[str, int | None], Watched] = {}

    def visit(name: str, version: int | None) -> None:
        # Triton refuses ensembles in a circle; a model may be a step twice.
        if (name, version) in found:
            return
        parts = steps(config(name, version))
        found[name, version] = Watched(name, version, bool(parts))
        for step in parts.items():
            visit(*step)

    visit(name, version)
    return tuple(found.values())


def leaves(watched: Iterable[Watched]) -> tuple[Watched, ...]:
    """The models that do something themselves."""
    return tuple(model for model in watched if not model.is_ensemble)


def _several(ips: Address | Iterable[Address]) -> Iterable[Address]:
    if isinstance(ips, str | _HasPorts) or not isinstance(ips, Iterable):
        return [ips]
    return ips


def _target(ip: Address, grpc_port: int, metrics_port: int) -> Target:
    try:
        if isinstance(ip, _HasPorts):
            # Validates them.
            found = Endpoint(ip.grpc, ip.grpc, ip.metrics)
            return Target(found.metrics, found.metrics, found.grpc)
        if isinstance(ip, str):
            host, port = _split(ip)
            grpc = f"{host}:{grpc_port}"
            found = Endpoint(grpc, grpc, f"{host}:{port or metrics_port}")
            return Target(ip, found.metrics, found.grpc)
    except InvalidEndpoint as error:
        raise _no_server(ip) from error
    raise _no_server(ip)


def _no_server(ip: object) -> InvalidMonitorOption:
    return InvalidMonitorOption(
        f"ips: {ip!r} is no server; give its host, 'host:port' of its metrics,"
        " or an endpoint such as server.endpoint"
    )


def _split(address: str) -> tuple[str, str]:
    """Host and port of an address; the port may be empty."""
    if address.count(":") > 1 and not address.startswith("["):
        return f"[{address}]", ""  # IPv6, as users write it
    if address.endswith("]"):
        return address, ""
    host, _, port = address.partition(":")
    if address.startswith("["):
        host, _, port = address.rpartition(":")
    return host, port
