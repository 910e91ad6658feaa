"""Pure: how a machine says that its start-up script is done.

Google runs what stands under ``startup-script``. That is ours: it fetches the
user's script, runs it, and tells the machine's guest attributes how it went,
which the Compute API can read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hermes.cloudbreak.errors import ResourceFailed

__all__ = (
    "HOST_KEYS",
    "NAMESPACE",
    "Startup",
    "has_ended_well",
    "metadata",
    "read_keys",
    "read_startup",
)

# Of guest attributes.
NAMESPACE, HOST_KEYS = "hermes", "hostkeys"

_SCRIPT = """#!/bin/sh
# Runs the start-up script, and says how it went.
server=http://${GCE_METADATA_HOST:-metadata.google.internal}
server=$server/computeMetadata/v1/instance
ask() {
    curl -sSf --retry 5 --max-time 20 -H 'Metadata-Flavor: Google' "$@"
}
tell() {
    ask -X PUT --data-binary @- "$server/guest-attributes/hermes/$1"
}
folder=$(mktemp -d)
echo running | tell startup
# Not through a pipe: what the script leaves running would hold it open.
: >"$folder/log"
tail -n +1 -f "$folder/log" &
follower=$!
{
    ask "$server/attributes/hermes-startup" >"$folder/script" &&
        chmod 700 "$folder/script" && "$folder/script"
} >>"$folder/log" 2>&1
code=$?
# Who reboots runs it again, and is done, or has failed, then.
if [ "$(systemctl is-system-running 2>/dev/null)" != stopping ]; then
    tail -n 20 "$folder/log" | tail -c 2000 | tell startup-log
    echo $code | tell startup
fi
sleep 0.5
kill $follower
rm "$folder/script"
"""


@dataclass(frozen=True)
class Startup:
    """How far a start-up script has come.

    Attributes:
        is_done: Whether it has ended.
        exit_code: How.
        log: The last lines that it wrote.
    """

    is_done: bool = False
    exit_code: int = 0
    log: str = ""


def metadata(startup_script: str) -> dict[str, str]:
    """Give the metadata that machines need for it."""
    items = {"enable-guest-attributes": "TRUE"}
    if startup_script:
        if not startup_script.startswith("#!"):
            startup_script = f"#!/bin/sh\n{startup_script}"
        items |= {"startup-script": _SCRIPT, "hermes-startup": startup_script}
    return items


def read_startup(attributes: Mapping[str, str]) -> Startup:
    """Read the guest attributes of `NAMESPACE`."""
    code = attributes.get("startup", "").strip()
    if not code.isdigit():
        return Startup()
    log = attributes.get("startup-log", "").strip()
    return Startup(True, int(code), log)


def has_ended_well(name: str, attributes: Mapping[str, str]) -> bool:
    """Tell whether the start-up script of a machine has ended.

    Raises:
        ResourceFailed: If it has failed; it is quoted.
    """
    startup = read_startup(attributes)
    if startup.exit_code:
        raise ResourceFailed(
            f"the start-up script of {name} has failed with exit "
            f"code {startup.exit_code}: {startup.log or 'no word'}"
        )
    return startup.is_done


def read_keys(attributes: Mapping[str, str]) -> tuple[str, ...]:
    """Read the guest attributes of `HOST_KEYS`, from Google's guest agent."""
    return tuple(
        f"{kind} {key.strip()}"
        for kind, key in sorted(attributes.items())
        if key.strip()
    )
