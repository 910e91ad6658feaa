"""Pure: GKE's own messages -> what is observed."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable
from typing import Any

from hermes.cloudbreak._settings import unrecord
from hermes.cloudbreak.clouds.google._requests import (
    CREATED,
    DEFAULT_POOL,
    SETTINGS,
    limits_of,
)
from hermes.cloudbreak.clouds.google._words import explain, find_cause
from hermes.cloudbreak.specs import Cause, Key, Kind, Observed, State

__all__ = (
    "began",
    "blame",
    "has_failed",
    "is_done",
    "machine_of",
    "observed_cluster",
    "observed_pool",
    "target_of",
)

# Of clusters and of node pools: what they share means the same. One that is
# reconciled takes no other change meanwhile, so that nothing can be added.
_STATES = {
    "PROVISIONING": State.CREATING,
    "RECONCILING": State.CREATING,
    "RUNNING": State.READY,
    "STOPPING": State.DELETING,
    "ERROR": State.BROKEN,
    "DEGRADED": State.BROKEN,
    "RUNNING_WITH_ERROR": State.BROKEN,
}


def observed_cluster(cluster: Any) -> Observed:
    """Read a cluster."""
    return Observed(
        Key(Kind.CLUSTER, cluster.name),
        _STATES.get(cluster.status.name, State.CREATING),
        dict(cluster.resource_labels),
        reason=_say(cluster),
        created=_seconds(cluster.create_time),
        settings=_settings_of_cluster(cluster),
        where=cluster.location,
    )


def observed_pool(cluster: Any, pool: Any) -> Observed:
    """Read a node pool."""
    labels = dict(pool.config.resource_labels)
    created = labels.get(CREATED, "")
    return Observed(
        Key(Kind.NODE_POOL, pool.name, cluster.name),
        _STATES.get(pool.status.name, State.CREATING),
        labels,
        reason=_say(pool),
        created=(
            float(created)
            if created.isdecimal()
            else _seconds(cluster.create_time)
        ),
        settings=_settings_of_pool(pool),
        where=pool.locations[0] if len(pool.locations) == 1 else "",
    )


def _settings_of_cluster(cluster: Any) -> dict[str, Any]:
    for pool in cluster.node_pools:
        if pool.name == DEFAULT_POOL and (found := _recorded(pool)):
            return found | {"num_nodes": pool.initial_node_count}
    return {}


def _settings_of_pool(pool: Any) -> dict[str, Any]:
    if not (found := _recorded(pool)):
        return {}
    found |= limits_of(pool)
    if not pool.autoscaling.enabled:
        found["num_nodes"] = pool.initial_node_count
    return found


def _recorded(pool: Any) -> dict[str, Any]:
    return unrecord(pool.config.metadata.get(SETTINGS, ""))


def began(operation: Any) -> float:
    """Say when an operation began; 0 if nobody knows."""
    return _seconds(operation.start_time)


def is_done(operation: Any) -> bool:
    """Whether an operation has ended."""
    return bool(operation.status.name == "DONE")


def has_failed(operation: Any) -> bool:
    """Whether an operation has ended with an error."""
    return is_done(operation) and bool(_words_of(operation))


def blame(
    resource: Any, operations: Iterable[Any], what: str, where: str
) -> tuple[Cause, str]:
    """Find out why a resource is broken.

    Args:
        resource: A cluster or node pool; None if it is not there at all.
        operations: Those that were about it, and failed.
        what: What kind of machines it has.
        where: In which zones.
    """
    texts = [_words_of(each) for each in operations]
    codes = [_code(c) for each in operations for c in _conditions(each)]
    if resource is not None:
        codes += [_code(each) for each in resource.conditions]
        texts.insert(0, resource.status_message)
        texts += [each.message for each in resource.conditions]
    text = "; ".join(dict.fromkeys(t for t in texts if t))
    cause = find_cause(codes, text)
    return cause, explain(cause, text, what, where)


def machine_of(pool: Any) -> str:
    """Say what machines a pool has."""
    gpus = [
        f"{each.accelerator_count} {each.accelerator_type}"
        for each in pool.config.accelerators
    ]
    return " with ".join([pool.config.machine_type, *gpus])


def target_of(operation: Any) -> tuple[str, str]:
    """Say which cluster, and which pool of it or "", an operation is about."""
    parts = operation.target_link.split("/")
    after = dict(itertools.pairwise(parts))
    return after.get("clusters", ""), after.get("nodePools", "")


def _words_of(operation: Any) -> str:
    return str(operation.error.message or operation.status_message)


def _conditions(operation: Any) -> list[Any]:
    return [*operation.cluster_conditions, *operation.nodepool_conditions]


def _code(condition: Any) -> str:
    return str(getattr(condition.code, "name", condition.code))


def _say(resource: Any) -> str:
    status = str(resource.status.name)
    shown = "" if status in {"RUNNING", "PROVISIONING", "STOPPING"} else status
    return ": ".join(t for t in (shown, resource.status_message) if t)


def _seconds(time: str) -> float:
    try:
        return dt.datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0
