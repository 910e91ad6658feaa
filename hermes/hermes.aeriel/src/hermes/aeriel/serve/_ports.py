"""Addresses and ports that a server can bind to."""

import socket
from contextlib import ExitStack

from hermes.aeriel.errors import InvalidServeOption, PortTaken
from hermes.aeriel.serve._command import Ports

__all__ = ("Reservation", "advertised", "numeric_address", "reachable")

_WILDCARD = "0.0.0.0"  # noqa: S104 - only compared with


class Reservation:
    """Three ports that nobody else is given before our server has them.

    Triton binds its ports after its models are loaded, which takes seconds or
    minutes. Until then the ports are bound here, without listening: the
    kernel gives them to nobody who asks for any port, and yet allows the
    server, which like us sets SO_REUSEADDR, to bind and listen.

    Args:
        address: Numeric address.
        wanted: The ports; 0 for any that is free.

    Raises:
        PortTaken: If one of them is in use.
    """

    def __init__(self, address: str, wanted: Ports) -> None:
        self._sockets = ExitStack()
        try:
            self.ports = Ports(
                **{
                    name: self._bind(address, name, port)
                    for name, port in wanted.items()
                }
            )
        except BaseException:
            self.close()
            raise

    def _bind(self, address: str, name: str, port: int) -> int:
        bound = self._sockets.enter_context(
            socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        )
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((address, port))
        except OSError as error:
            raise PortTaken(
                error.errno,
                f"cannot bind the server's {name} port {address}:{port} "
                f"({error.strerror}); end what uses it, or let serve() choose "
                "ports with free_ports=True",
            ) from error
        number: int = bound.getsockname()[1]
        return number

    def close(self) -> None:
        """Let go of the ports."""
        self._sockets.close()


def numeric_address(host: str) -> str:
    """Return the IPv4 address of ``host``.

    Raises:
        InvalidServeOption: If it has none.
    """
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET)
    except (OSError, UnicodeError, TypeError) as error:
        raise InvalidServeOption(
            f"host must be an IPv4 address or a name that has one, got "
            f"{host!r} ({error})"
        ) from error
    return str(found[0][4][0])


def advertised(address: str) -> str:
    """Return the host to tell clients: a wildcard is no address to go to."""
    return socket.gethostname() if address == _WILDCARD else address


def reachable(address: str) -> str:
    """Return the host to ask from this machine whether a server is ready."""
    return "127.0.0.1" if address == _WILDCARD else address
