"""Pure: swarms as Compute Engine writes them, and back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from hermes.cloudbreak._settings import record, unrecord
from hermes.cloudbreak.clouds.google._startup import metadata
from hermes.cloudbreak.clouds.google._vm_specs import VMDescription
from hermes.cloudbreak.clouds.google._words import explain
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.specs import Cause, Key, Observed, State

__all__ = (
    "CREATED",
    "SWARM",
    "address_of",
    "bulk_body",
    "labels_of",
    "look",
    "names_filter",
    "stamped_filter",
    "why_failed",
    "zone_of",
)

SWARM, SIZE, CREATED = "hermes-swarm", "hermes-size", "hermes-created"
# What was asked for, in the metadata of each machine: labels are short.
SETTINGS = "hermes-settings"

_STARTING = {"PENDING", "PROVISIONING", "STAGING"}
_ENDING = {"DEPROVISIONING", "PENDING_STOP", "STOPPING"}

_TOO_FEW, _QUOTA = "VM_MIN_COUNT_NOT_REACHED", "QUOTA_EXCEEDED"
_STOCK_OUT = {
    "RESOURCE_POOL_EXHAUSTED",
    "STOCKOUT",
    "ZONE_RESOURCE_POOL_EXHAUSTED",
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
}


def labels_of(
    spec: VMDescription, stamp: Stamp, today: float
) -> dict[str, str]:
    """Give the labels of a swarm's machines."""
    return {
        **stamp.labels,
        SWARM: spec.name,
        SIZE: str(spec.num_vms),
        # Not the oldest machine's time: that changes while they are deleted.
        CREATED: str(int(today)),
    }


def bulk_body(
    spec: VMDescription,
    stamp: Stamp,
    labels: Mapping[str, str],
    today: float,
    names: Collection[str] = (),
) -> dict[str, Any]:
    """Give the request that creates a swarm: all of it, or nothing.

    Each name is given. By a pattern, Google would number on from what is
    there, and a request that is sent again would create the swarm again.

    Args:
        spec: What each machine is like.
        stamp: Until when it may be there.
        labels: Its labels.
        today: The time, in seconds since 1970.
        names: Which machines, if not all.
    """
    names = names or spec.vm_names
    return {
        "count": str(len(names)),
        "minCount": str(len(names)),
        "perInstanceProperties": {name: {} for name in names},
        "instanceProperties": {
            "machineType": spec.machine_type,
            "labels": dict(labels),
            "disks": [_disk(spec, labels)],
            "networkInterfaces": [_interface(spec)],
            "metadata": {"items": _items(spec)},
            "scheduling": _scheduling(spec, stamp.deadline - today),
            **_options(spec),
        },
    }


def stamped_filter(owner: str | None) -> str:
    """Select the machines of swarms, of one owner or of all."""
    if owner is None:
        return f"labels.{SWARM}:*"
    return f"labels.{SWARM}:* AND labels.hermes-owner={owner}"


def names_filter(name: str) -> str:
    """Select what has the names of a swarm's machines, whoever made it."""
    return f"name eq {name}-[0-9]{{3}}"


def look(
    key: Key, instances: Iterable[Mapping[str, Any]], *, is_coming: bool
) -> Observed:
    """Tell what becomes of a swarm.

    Args:
        key: Which.
        instances: Its machines, one at least.
        is_coming: Whether those that lack are being created.
    """
    instances = sorted(instances, key=lambda each: str(each["name"]))
    labels = dict(instances[0].get("labels", {}))
    size = int(labels.get(SIZE) or len(instances))
    extra = [each for each in instances if _index_of(each) >= size]
    state, reason = _judge(size, instances, extra, is_coming)
    created = labels.get(CREATED, "")
    alive = [each for each in extra if each["status"] not in _ENDING]
    return Observed(
        key,
        state,
        labels,
        reason=reason,
        created=float(created) if created.isdigit() else 0.0,
        settings=_settings_of(instances[0], size, len(alive)),
        where=zone_of(instances[0]),
    )


def _settings_of(
    first: Mapping[str, Any], size: int, num_extra: int
) -> dict[str, Any]:
    """Read what a swarm is like; how large is said by its first machine."""
    items = first.get("metadata", {}).get("items", ())
    found = unrecord(
        next((e["value"] for e in items if e["key"] == SETTINGS), "")
    )
    if not found:
        return {}
    # A change that was cut off: it is no size that could be wanted.
    more = f"{size} and {num_extra} more"
    return found | {"num_vms": more if num_extra else size}


def _index_of(instance: Mapping[str, Any]) -> int:
    return int(str(instance["name"]).rpartition("-")[2])


def why_failed(
    operation: Mapping[str, Any], spec: VMDescription, zone: str
) -> tuple[Cause, str] | None:
    """Tell why an operation failed; None if it did not."""
    errors = operation.get("error", {}).get("errors", [])
    if not errors:
        return None
    codes = {each.get("code", "") for each in errors}
    said = "; ".join(filter(None, (e.get("message") for e in errors)))
    said = said or "Google does not say why"
    if _QUOTA in codes:  # it lasts longer, and is the same in all zones
        return Cause.QUOTA, _explain_quota(errors, said)
    if codes & _STOCK_OUT or codes == {_TOO_FEW}:
        what = f"{spec.num_vms} x {spec.machine_type}"
        return Cause.STOCK_OUT, explain(Cause.STOCK_OUT, said, what, zone)
    return Cause.OTHER, f"{', '.join(sorted(codes))}: {said}"


def _explain_quota(errors: Iterable[Mapping[str, Any]], said: str) -> str:
    for each in errors:
        for detail in each.get("errorDetails", ()):
            if quota := detail.get("quotaInfo"):
                where = quota.get("dimensions", {}).get(
                    "region", "the project"
                )
                return (
                    f"the quota {quota.get('metricName', '')} of {where} is "
                    f"{quota.get('limit', 0):g} ({said})"
                )
    return explain(Cause.QUOTA, said, "", "")


def _judge(
    size: int,
    instances: list[Mapping[str, Any]],
    extra: list[Mapping[str, Any]],
    is_coming: bool,
) -> tuple[State, str]:
    if all(each["status"] in _ENDING for each in instances):
        return State.DELETING, ""
    if extra and not is_coming:
        return State.CREATING, f"({len(extra)} have to go)"
    found = [each["status"] for each in instances]
    if is_coming or any(status in _STARTING for status in found):
        num_running = found.count("RUNNING")
        return State.CREATING, f"({num_running} of {size} are running)"
    bad = [
        f"{each['name']} is {each['status']}"
        for each in instances
        if each["status"] != "RUNNING"
    ]
    if bad:
        return State.BROKEN, ", ".join(bad[:5])
    if len(found) < size:
        return State.BROKEN, f"only {len(found)} of {size} are there"
    return State.READY, ""


def _disk(spec: VMDescription, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "boot": True,
        "autoDelete": True,
        "initializeParams": {
            "sourceImage": spec.image,
            "diskSizeGb": str(spec.disk_gb),
            "diskType": spec.disk_type,
            "labels": dict(labels),
        },
    }


def _interface(spec: VMDescription) -> dict[str, Any]:
    interface: dict[str, Any] = {"network": spec.network}
    if spec.subnetwork:
        interface["subnetwork"] = spec.subnetwork
    if spec.has_external_address:
        interface["accessConfigs"] = [
            {"name": "External NAT", "type": "ONE_TO_ONE_NAT"}
        ]
    return interface


def _items(spec: VMDescription) -> list[dict[str, str]]:
    items = {
        **spec.metadata,
        **metadata(spec.startup_script),
        SETTINGS: record(spec, spec.changeable),
    }
    return [{"key": key, "value": items[key]} for key in sorted(items)]


def _scheduling(spec: VMDescription, seconds_left: float) -> dict[str, Any]:
    """Have Google itself delete what nobody else does."""
    scheduling: dict[str, Any] = {
        "maxRunDuration": {"seconds": str(spec.ends_after(seconds_left))},
        "instanceTerminationAction": "DELETE",
        "automaticRestart": False,
        "provisioningModel": "SPOT" if spec.spot else "STANDARD",
    }
    if spec.spot or spec.gpu_type:
        scheduling["onHostMaintenance"] = "TERMINATE"
    return scheduling


def _options(spec: VMDescription) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if spec.gpu_type:
        options["guestAccelerators"] = [
            {
                "acceleratorType": spec.gpu_type,
                "acceleratorCount": spec.num_gpus,
            }
        ]
    if spec.service_account:
        scope = "https://www.googleapis.com/auth/cloud-platform"
        options["serviceAccounts"] = [
            {"email": spec.service_account, "scopes": [scope]}
        ]
    if spec.tags:
        options["tags"] = {"items": list(spec.tags)}
    return options


def zone_of(instance: Mapping[str, Any]) -> str:
    """Tell where a machine is."""
    return str(instance["zone"]).rpartition("/")[2]


def address_of(instance: Mapping[str, Any]) -> str:
    """Tell where a machine is reached: from outside, where it can be."""
    interface = instance["networkInterfaces"][0]
    outside, newer = (
        [each.get(name) for each in interface.get(configs, ())]
        for configs, name in (
            ("accessConfigs", "natIP"),
            ("ipv6AccessConfigs", "externalIpv6"),
        )
    )
    inside = [interface.get("networkIP")]
    others = [*newer, interface.get("ipv6Address")]
    return str(next(filter(None, [*outside, *inside, *others]), ""))
