"""Swarms of virtual machines, as users hold them."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from hermes.cloudbreak.clouds.google._startup import (
    HOST_KEYS,
    NAMESPACE,
    has_ended_well,
    read_keys,
)
from hermes.cloudbreak.clouds.google._vm_bodies import address_of, look
from hermes.cloudbreak.clouds.google._vm_cloud import ComputeCloud
from hermes.cloudbreak.clouds.google._vm_specs import VMDescription
from hermes.cloudbreak.errors import (
    CloudUnavailable,
    InvalidSpec,
    ResourceFailed,
    WaitTimeout,
)
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reconciler import Reconciler
from hermes.cloudbreak.specs import Key, State
from hermes.cloudbreak.ssh import Host, Hosts, public_key
from hermes.cloudbreak.waiting import Clock, Pauses, finish

__all__ = ("VMManager",)

_AT_ONCE = 16  # machines that are asked about at the same time
_USERNAME = re.compile(r"[a-z_][-a-z0-9_]{0,31}")


class VMManager:
    """Brings up virtual machines, and sees to it that they go.

    Args:
        description: What each of them is; how many is said later.
        project: The project; that of the credentials if empty.
        credentials: The path of a key file, an object of google-auth, or None
            for what the environment has.
        owner: Who answers for them; who runs this if None.
        lifetime: Seconds after which anybody may delete them, and Google
            itself does.
        timeout: Seconds until all have to be ready.
        ssh_port: Where they listen.
        cloud: Where they are created, if that exists already.
        clock: The time.
        report: Called with what is waited for, whenever that has changed.

    Raises:
        InvalidSpec: If no project is known.
        Refused: If there are no credentials.
    """

    def __init__(
        self,
        description: VMDescription,
        *,
        project: str = "",
        credentials: Any = None,
        owner: str | None = None,
        lifetime: float = 86400.0,
        timeout: float = 1200.0,
        ssh_port: int = 22,
        cloud: ComputeCloud | None = None,
        clock: Clock | None = None,
        report: Callable[[Mapping[Key, str]], object] | None = None,
    ) -> None:
        self._description = description
        self._clock = clock or Clock()
        self._cloud = cloud or ComputeCloud(
            project, credentials, clock=self._clock
        )
        self._owner = owner
        self._lifetime = lifetime
        self._timeout = timeout
        self._port = ssh_port
        self._report = report

    @contextlib.contextmanager
    def manage(
        self, num_vms: int, username: str, ssh_key_file: str | Path
    ) -> Iterator[Hosts]:
        """Have machines, for the time of a context.

        They are ready when their start-up script has ended well and they let
        the user in. However the context is left, they are deleted, and waited
        for until they are gone: also after one Ctrl-C, not after the second.

        Args:
            num_vms: How many; all of them or none.
            username: Who logs in there; is created.
            ssh_key_file: With which private key; it has no passphrase.

        Yields:
            Machines that do the same thing at the same time.

        Raises:
            InvalidSpec: If something is wrong with what is given; nothing
                was created.
            ResourceFailed: If there are none left in any of the zones, not so
                many are allowed, or a start-up script has failed.
            WaitTimeout: If they are not ready in time.
            HostsFailed: If some do not let the user in.
            StillThere: If some could not be deleted; it names them.
        """
        spec = self._describe(num_vms, username, ssh_key_file)
        today = self._clock.today()
        run = f"{spec.name}-{uuid.uuid4().hex[:8]}"
        reconciler = Reconciler(
            self._cloud,
            Stamp.make(self._owner, run, today + self._lifetime),
            clock=self._clock,
            report=self._report,
        )
        deadline = self._clock.now() + self._timeout
        with contextlib.ExitStack() as stack:
            stack.callback(self._cloud.close)
            stack.callback(finish, reconciler.take_everything_down)
            reconciler.bring_up([spec], self._timeout)
            hosts = self._wait_booted(spec, deadline)
            swarm = stack.enter_context(
                Hosts(hosts, username, ssh_key_file, clock=self._clock)
            )
            swarm.connect(max(1.0, deadline - self._clock.now()))
            yield swarm

    def _describe(
        self, num_vms: int, username: str, ssh_key_file: str | Path
    ) -> VMDescription:
        if not _USERNAME.fullmatch(username):
            raise InvalidSpec(
                f"username={username!r}: give lower-case letters, digits, "
                "hyphens and underscores, at most 32"
            )
        metadata = dict(self._description.metadata)
        if "ssh-keys" in metadata:
            raise InvalidSpec(
                "metadata has ssh-keys already: these are given by username "
                "and ssh_key_file"
            )
        key = public_key(ssh_key_file)
        metadata["ssh-keys"] = f"{username}:{key} {username}"
        # With it, which a project may have, Google looks at no other keys.
        metadata.setdefault("enable-oslogin", "FALSE")
        return replace(self._description, num_vms=num_vms, metadata=metadata)

    def _wait_booted(self, spec: VMDescription, deadline: float) -> list[Host]:
        """Wait until start-up scripts are done and host keys are known."""
        hosts: dict[str, Host] = {}
        pauses = Pauses()
        while True:
            instances = self._look_after(spec)
            waiting = [i for i in instances if i["name"] not in hosts]
            with ThreadPoolExecutor(_AT_ONCE, "hermes-boot") as pool:
                for host in pool.map(lambda i: self._ask(spec, i), waiting):
                    if host is not None:
                        hosts[host.name] = host
            missing = [name for name in spec.vm_names if name not in hosts]
            if not missing:
                return [hosts[name] for name in spec.vm_names]
            if not pauses.wait(self._clock, deadline):
                raise WaitTimeout(
                    f"after {self._timeout:g} s {len(missing)} of "
                    f"{spec.num_vms} machines are not set up, such as "
                    f"{missing[0]}: its start-up script goes on, or its image "
                    "has no guest agent of Google's, which tells of host "
                    "keys; look at `hermes-cloud logs`"
                )

    def _look_after(self, spec: VMDescription) -> list[dict[str, Any]]:
        """List the machines; they may be taken away while they boot."""
        try:
            instances = self._cloud.instances(spec.key)
        except CloudUnavailable:
            return []  # until the deadline
        if not instances:
            raise ResourceFailed(f"{spec.key} is gone: who has deleted it?")
        found = look(spec.key, instances, is_coming=False)
        if found.state is not State.READY:
            raise ResourceFailed(
                f"{spec.key} is {found.state.value} {found.reason}".strip()
            )
        return instances

    def _ask(
        self, spec: VMDescription, instance: Mapping[str, Any]
    ) -> Host | None:
        """Ask whether a machine is set up; give it if it is."""
        name = instance["name"]
        try:
            said = self._cloud.guest_attributes(instance, NAMESPACE)
            is_done = has_ended_well(name, said)
            if spec.startup_script and not is_done:
                return None
            keys = read_keys(self._cloud.guest_attributes(instance, HOST_KEYS))
        except CloudUnavailable:
            return None
        address = address_of(instance)
        if not keys or not address:
            return None
        return Host(name, address, self._port, keys)
