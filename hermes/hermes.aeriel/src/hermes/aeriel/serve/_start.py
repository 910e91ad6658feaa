"""Start a server: everything about it is known, but for its ports."""

import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from hermes.aeriel.endpoint import Endpoint
from hermes.aeriel.serve._command import (
    ModelControl,
    Options,
    Ports,
    grace,
    server_command,
)
from hermes.aeriel.serve._lifeline import Lifeline
from hermes.aeriel.serve._log import Log
from hermes.aeriel.serve._ports import Reservation, advertised, reachable
from hermes.aeriel.serve._runtimes import Bind, Request, Runtime
from hermes.aeriel.serve._shm import sweep

__all__ = ("Running", "Start")

_SHM_KIND = "hermes_"


@dataclass(frozen=True)
class Running:
    """One process, the ports that it was given, and where they are.

    Args:
        process: The server, on its lifeline.
        reservation: Its ports, kept for it until it has them.
        endpoint: What clients are told.
        probes: Where this machine reaches it.
        may_be_killed: Whether it may, once everything is answered.
    """

    process: Lifeline
    reservation: Reservation
    endpoint: Endpoint
    probes: Endpoint
    may_be_killed: bool = False


@dataclass(frozen=True)
class Start:
    """What it takes to start a server, and to start it again.

    Args:
        runtime: What runs it.
        repositories: Its model repositories.
        server_id: Its unique name.
        address: Numeric address to bind to.
        wanted: Its ports; 0 for any that is free.
        advertise: The host that clients are told; None for ours.
        arguments: The user's own options.
        control: How its models are loaded.
        env: Variables for it.
        with_gpus: Whether it is to use GPUs.
        devices: Those that it is given; None if nobody chose.
        binds: What else a container shows to it.
    """

    runtime: Runtime
    repositories: tuple[str, ...]
    server_id: str
    address: str
    wanted: Ports
    advertise: str | None = None
    arguments: Sequence[str] = ()
    control: ModelControl = field(default_factory=ModelControl)
    env: Mapping[str, str] = field(default_factory=dict)
    with_gpus: bool = False
    devices: str | None = None
    binds: tuple[Bind, ...] = ()

    @property
    def may_move(self) -> bool:
        """Whether other ports would do as well."""
        return any(not port for _, port in self.wanted.items())

    def run(self, log: Log) -> Running:
        """Start the server.

        Raises:
            PortTaken: If a port is in use.
            RuntimeUnusable: If the runtime cannot work.
        """
        with ExitStack() as undo:
            reservation = Reservation(self.address, self.wanted)
            undo.callback(reservation.close)
            process, may_be_killed = self._launch(reservation.ports, log)
            undo.callback(process.release)
            host = self.advertise or advertised(self.address)
            running = Running(
                process=process,
                reservation=reservation,
                endpoint=_endpoint(host, reservation.ports),
                probes=_endpoint(reachable(self.address), reservation.ports),
                may_be_killed=may_be_killed,
            )
            undo.pop_all()
        return running

    def _launch(self, ports: Ports, log: Log) -> tuple[Lifeline, bool]:
        # Unique, for what the server leaves in /dev/shm is removed by it.
        sweep(_SHM_KIND)
        shm_prefix = f"{_SHM_KIND}{uuid.uuid4().hex}_"
        request = Request(
            repositories=self.repositories,
            environ=dict(os.environ),
            env=self.env,
            with_gpus=self.with_gpus,
            binds=self.binds,
            loads_all=self.control.mode != "explicit",
        )
        with self.runtime.launch(request) as launch:
            options = Options(
                repositories=launch.repositories,
                backend_directory=launch.backend_directory,
                address=self.address,
                ports=ports,
                server_id=self.server_id,
                shm_prefix=shm_prefix,
                server_args=self.arguments,
                control=self.control,
            )
            process = Lifeline(
                server_command(launch.argv, options),
                env=launch.env,
                cwd=launch.cwd,
                output=log.file,
                grace=grace(self.arguments),
                shm_prefix=shm_prefix,
                pass_fds=launch.pass_fds,
                outer=launch.outer,
                handed=launch.handed,
            )
            return process, launch.may_be_killed


def _endpoint(host: str, ports: Ports) -> Endpoint:
    return Endpoint(**{name: f"{host}:{port}" for name, port in ports.items()})
