"""Wait until the start-up scripts of a swarm have ended well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hermes.cloudbreak.clouds.google._startup import NAMESPACE, has_ended_well
from hermes.cloudbreak.errors import WaitTimeout
from hermes.cloudbreak.specs import Key
from hermes.cloudbreak.waiting import Clock, Pauses, insist

__all__ = ("wait_for_scripts",)

_AT_ONCE = 16  # machines that are asked about at the same time

_Instance = Mapping[str, Any]


def wait_for_scripts(
    key: Key,
    instances: list[dict[str, Any]],
    ask: Callable[[_Instance, str], Mapping[str, str]],
    clock: Clock,
    deadline: float,
) -> None:
    """Wait until the scripts of all machines have ended.

    Args:
        key: The swarm.
        instances: Its machines.
        ask: Gives what a machine says of itself, in a namespace.
        clock: The time.
        deadline: Until when.

    Raises:
        ResourceFailed: If one has failed; it is quoted.
        WaitTimeout: If one has not ended in time; it names a machine.
    """

    def has_ended(each: _Instance) -> bool:
        said = insist(lambda: ask(each, NAMESPACE), clock, deadline)
        return has_ended_well(each["name"], said)

    pauses = Pauses()
    while True:
        with ThreadPoolExecutor(_AT_ONCE, "hermes-boot") as pool:
            ended = list(pool.map(has_ended, instances))
        pairs = zip(instances, ended, strict=True)
        instances = [each for each, is_over in pairs if not is_over]
        if not instances:
            return
        if not pauses.wait(clock, deadline):
            raise WaitTimeout(
                f"{key}: the start-up scripts of {len(instances)} machines go "
                f"on, such as {instances[0]['name']}'s; look at "
                "`hermes-cloud logs`"
            )
