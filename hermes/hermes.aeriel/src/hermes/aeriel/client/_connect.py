"""From what the user calls a server to a way to it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hermes.aeriel._transport import Transport
from hermes.aeriel._triton import TritonTransport
from hermes.aeriel.client._peers import Peer
from hermes.aeriel.endpoint import EndpointLike
from hermes.aeriel.errors import InvalidRequest

__all__ = ("Address", "Options", "open_peers")

Address = str | EndpointLike


@dataclass(frozen=True)
class Options:
    """How to connect; see `InferenceClient`."""

    ssl: bool = False
    root_certificates: str | None = None
    private_key: str | None = None
    certificate_chain: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    token: str | None = None


def open_peers(
    address: Address | Iterable[Address],
    options: Options,
    transport: Transport | Iterable[Transport] | None,
) -> Sequence[Peer]:
    """A peer for each address; connects to none of them yet.

    Raises:
        InvalidRequest: If an address or an option is no such thing.
    """
    addresses = [_address(one) for one in _several(address)]
    if not addresses or len({*addresses}) < len(addresses):
        msg = f"address={address!r}: give each server once, and at least one"
        raise InvalidRequest(msg)
    if transport is None:
        return [Peer(a, _transport(a, options)) for a in addresses]
    transports = (
        [*transport] if isinstance(transport, Iterable) else [transport]
    )
    if len(transports) != len(addresses):
        msg = f"{len(transports)} transports for {len(addresses)} addresses"
        raise InvalidRequest(msg)
    return [Peer(*pair) for pair in zip(addresses, transports, strict=True)]


def _several(address: Address | Iterable[Address]) -> Iterable[Address]:
    if isinstance(address, str) or not isinstance(address, Iterable):
        return [address]
    return address


def _address(address: Address) -> str:
    found = (
        address if isinstance(address, str) else getattr(address, "grpc", None)
    )
    if not isinstance(found, str):
        msg = (
            f"{address!r} is no address; give 'host:port' of a server's gRPC"
            " endpoint, or an object with it as .grpc (server.endpoint)"
        )
        raise InvalidRequest(msg)
    return found


def _transport(address: str, options: Options) -> Transport:
    headers = dict(options.headers)
    if options.token is not None:
        if not options.ssl and not _is_local(address):
            msg = (
                f"token=... to {address} without TLS could be read by anybody"
                " on the way; give ssl=True"
            )
            raise InvalidRequest(msg)
        headers["authorization"] = f"Bearer {options.token}"
    return TritonTransport(
        address,
        ssl=options.ssl,
        root_certificates=options.root_certificates,
        private_key=options.private_key,
        certificate_chain=options.certificate_chain,
        headers=headers,
    )


def _is_local(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
