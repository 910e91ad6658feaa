"""Pure: what ``serve()`` was asked for, as the server's command line."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import zip_longest
from typing import Self

from hermes.aeriel.errors import InvalidServeOption

__all__ = (
    "ModelControl",
    "Options",
    "Ports",
    "check_server_args",
    "grace",
    "server_command",
    "server_environment",
)

# Seconds that the server gives requests, and sequences that nobody has ended,
# when it stops; what it does after that must be over within the margin.
_EXIT_TIMEOUT = 5
_EXIT_MARGIN = 7

# A client may look after its connection more often than gRPC's default of
# once per five minutes, without being disconnected for it.
_KEEPALIVE = (
    "--grpc-http2-min-recv-ping-interval-without-data=1000",
    "--grpc-http2-max-ping-strikes=0",
    "--grpc-http2-max-pings-without-data=0",
    "--grpc-keepalive-permit-without-calls=1",
)

_CONTROL = "--model-control-mode"

_OWNED = {
    "--help": "server_args are for a server that is to run",
    "--version": "server_args are for a server that is to run",
    "--model-repository": "use model_repo_dir=",
    "--model-store": "use model_repo_dir=",
    "--id": "use name=",
    "--log-file": "use log_file=",
    "--http-address": "use host=",
    "--grpc-address": "use host=",
    "--metrics-address": "use host=",
    "--allow-http": "serve() needs it to see that the server is ready",
    "--allow-grpc": "serve() needs it to see that the server is ready",
    "--allow-metrics": "serve() needs it to see that the server is ready",
}


@dataclass(frozen=True)
class Ports:
    """The three ports of a server; 0 for any that is free."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    def override(self, server_args: Sequence[str]) -> Self:
        """Return these ports, but for the ones that ``server_args`` names.

        Raises:
            InvalidServeOption: If they are no three different port numbers.
        """
        given = {}
        for option, value in _pairs(server_args):
            name = _port_name(option)
            if name and value is not None:
                given[name] = _port_number(option, value)
        ports = replace(self, **given)
        fixed = [port for _, port in ports.items() if port]
        if len(set(fixed)) < len(fixed):
            raise InvalidServeOption(
                f"a server needs three different ports, got {fixed}"
            )
        return ports

    def items(self) -> Iterator[tuple[str, int]]:
        """Yield name and number of each port."""
        for port in fields(self):
            yield port.name, getattr(self, port.name)


@dataclass(frozen=True)
class ModelControl:
    """Which models the server has loaded.

    Args:
        mode: ``"none"``: all, from the start; ``"explicit"``: those that it
            is told to load; ``"poll"``: all, and what changes in the
            repository.
        poll_seconds: How often it looks for changes; None for Triton's
            choice.

    Raises:
        InvalidServeOption: If they have values that cannot work.
    """

    mode: str = "none"
    poll_seconds: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("none", "explicit", "poll"):
            raise InvalidServeOption(
                "model_control must be 'none', 'explicit' or 'poll', got "
                f"{self.mode!r}"
            )
        seconds = self.poll_seconds
        if seconds is not None and (self.mode != "poll" or seconds < 1):
            raise InvalidServeOption(
                "repository_poll_secs must be a number of seconds, with "
                f"model_control='poll', got {seconds!r} with {self.mode!r}"
            )

    def override(self, server_args: Sequence[str]) -> Self:
        """Return this mode, or the one that ``server_args`` names.

        Raises:
            InvalidServeOption: If both name one, and not the same.
        """
        named = dict(_pairs(server_args)).get(_CONTROL)
        if named is None or named == self.mode:
            return self
        if self.mode != "none":
            raise InvalidServeOption(
                f"model_control={self.mode!r} contradicts {_CONTROL}={named} "
                "in server_args; leave one of them out"
            )
        return replace(self, mode=named)

    def arguments(self) -> list[str]:
        """Return the server's options for it."""
        seconds = self.poll_seconds
        return [
            *([] if self.mode == "none" else [f"{_CONTROL}={self.mode}"]),
            *([f"--repository-poll-secs={seconds}"] if seconds else []),
        ]


@dataclass(frozen=True)
class Options:
    """What the server is told.

    Args:
        repositories: The model repositories, as the server sees them.
        backend_directory: Where its backends are; None for its own default.
        address: Numeric address to bind to.
        ports: Ports to bind to.
        server_id: Name that the server gives itself.
        shm_prefix: How its entries in ``/dev/shm`` begin.
        server_args: More options, as the user gave them.
        control: How its models are loaded.
    """

    repositories: Sequence[str]
    backend_directory: str | None
    address: str
    ports: Ports
    server_id: str
    shm_prefix: str
    server_args: Sequence[str] = ()
    control: ModelControl = field(default_factory=ModelControl)


def server_command(argv: Sequence[str], options: Options) -> list[str]:
    """Return the argument list that starts the server.

    The user's own options come after our defaults, so that they win; what
    ``serve()`` relies on comes last.

    Args:
        argv: What runs ``tritonserver``.
        options: Its options.
    """
    backends = options.backend_directory
    return [
        *argv,
        *(f"--model-repository={name}" for name in options.repositories),
        *([f"--backend-directory={backends}"] if backends else []),
        f"--exit-timeout-secs={_EXIT_TIMEOUT}",
        *_KEEPALIVE,
        *options.control.arguments(),
        *_without_ports(options.server_args),
        f"--id={options.server_id}",
        *(
            f"--{name}-address={options.address}"
            for name, _ in options.ports.items()
        ),
        *(f"--{name}-port={port}" for name, port in options.ports.items()),
        "--backend-config=python,shm-region-prefix-name=" + options.shm_prefix,
    ]


def check_server_args(server_args: Sequence[str] | None) -> tuple[str, ...]:
    """Return ``server_args`` if ``serve()`` can hand them on.

    Raises:
        InvalidServeOption: If they are no sequence of strings, or name an
            option that a keyword of ``serve()`` decides.
    """
    if server_args is None:
        return ()
    if isinstance(server_args, str) or not all(
        isinstance(argument, str) for argument in server_args
    ):
        raise InvalidServeOption(
            "server_args must be a sequence of strings, such as "
            f"['--log-verbose=1'], got {server_args!r}"
        )
    for option, _ in _pairs(server_args):
        if option in _OWNED:
            raise InvalidServeOption(
                f"server_args must not contain {option}: {_OWNED[option]}"
            )
    return tuple(server_args)


def grace(server_args: Sequence[str]) -> int:
    """Return the seconds that the server may take to stop.

    Raises:
        InvalidServeOption: If ``--exit-timeout-secs`` is no number.
    """
    given = dict(_pairs(server_args)).get("--exit-timeout-secs")
    if given is None:
        return _EXIT_TIMEOUT + _EXIT_MARGIN
    if not given.isdecimal():
        raise InvalidServeOption(
            f"--exit-timeout-secs must be whole seconds, got {given!r}"
        )
    return int(given) + _EXIT_MARGIN


def server_environment(
    inherited: Mapping[str, str],
    changes: Mapping[str, str],
    extra: Mapping[str, str],
    *,
    isolate: bool,
) -> dict[str, str]:
    """Return the server's environment.

    Args:
        inherited: Ours.
        changes: What the runtime sets.
        extra: What the user sets, which wins.
        isolate: Keep our Python's variables from the server's Python; those
            of a runtime with an interpreter of its own must not reach it.
    """
    kept = {
        name: value
        for name, value in inherited.items()
        if not (isolate and name.startswith(("PYTHON", "__PYVENV")))
    }
    return {**kept, **changes, **_joined(changes, extra)}


def _joined(
    changes: Mapping[str, str], extra: Mapping[str, str]
) -> dict[str, str]:
    """Return ``extra`` with its search paths after the runtime's own."""
    return {
        name: f"{changes[name]}:{value}"
        if name in ("PATH", "LD_LIBRARY_PATH") and name in changes
        else value
        for name, value in extra.items()
    }


def _pairs(server_args: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield every option with its value, ``--a=b`` or ``--a b``."""
    for argument, after in zip_longest(server_args, server_args[1:]):
        if argument.startswith("--"):
            option, equals, value = argument.partition("=")
            yield option, value if equals else after


def _without_ports(server_args: Sequence[str]) -> Iterator[str]:
    skip = False
    for argument in server_args:
        if skip:
            skip = False
        elif _port_name(argument.partition("=")[0]):
            skip = "=" not in argument
        else:
            yield argument


def _port_name(option: str) -> str | None:
    match = re.fullmatch(r"--(http|grpc|metrics)-port", option)
    return match[1] if match else None


def _port_number(option: str, value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise InvalidServeOption(
            f"{option} must be a port number, got {value!r}"
        )
    return int(value)
