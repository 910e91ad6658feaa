"""What is wanted of a cloud, and what it says it has: plain, frozen data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, ClassVar, Protocol, Self

from hermes.cloudbreak._settings import settings_of
from hermes.cloudbreak.errors import InvalidSpec

__all__ = (
    "Cause",
    "ClusterSpec",
    "Key",
    "Kind",
    "NodePoolSpec",
    "Observed",
    "Spec",
    "State",
    "VMSpec",
)

# What Google and Kubernetes both accept.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


class Kind(Enum):
    """Kinds of resources."""

    CLUSTER = "cluster"
    DEPLOYMENT = "deployment"
    NODE_POOL = "node pool"
    VM = "VM"


class State(Enum):
    """What becomes of a resource.

    Of one that is there in part, some of what it is made of was never asked
    for: it is asked for again.
    """

    CREATING = "being created"
    PARTIAL = "there in part"
    READY = "ready"
    BROKEN = "broken"
    DELETING = "being deleted"


class Cause(Enum):
    """Why a resource is broken, as far as it matters to us."""

    OTHER = "other"
    QUOTA = "quota"
    STOCK_OUT = "stock-out"


@dataclass(frozen=True)
class Key:
    """Which resource it is.

    Attributes:
        kind: Its kind.
        name: Its name.
        cluster: The cluster that a node pool belongs to.
        whose: Owner and run of what was observed, where a name may be given
            twice: it has the cloud find the same one again. Two keys that
            differ in nothing else are equal.
    """

    kind: Kind
    name: str
    cluster: str = ""
    whose: tuple[str, str] | None = field(
        default=None, compare=False, repr=False
    )

    def __str__(self) -> str:
        of = f" of cluster {self.cluster}" if self.cluster else ""
        return f"{self.kind.value} {self.name}{of}"

    @property
    def parent(self) -> Key | None:
        """What it is a part of, and cannot be without."""
        return Key(Kind.CLUSTER, self.cluster) if self.cluster else None


class Spec(Protocol):
    """What every description of a resource has."""

    @property
    def key(self) -> Key:
        """Which resource it describes."""

    @property
    def exists_ok(self) -> bool:
        """Whether one that is there already will do."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it is like, as plain data; of secrets, digests."""

    @property
    def changeable(self) -> frozenset[str]:
        """Names of the settings that can be changed while it is there."""

    def elsewhere(self) -> Self | None:
        """Describe the same in the next of its zones; None if it was last."""


@dataclass(frozen=True)
class _Placed:
    """A name, and the places to try in turn.

    Attributes:
        name: Lower-case letters, digits and hyphens, at most 40.
        zones: Where it may be, the best first.
        exists_ok: Whether one that is there already will do.
    """

    changeable: ClassVar[frozenset[str]] = frozenset()

    name: str
    zones: tuple[str, ...] = ()
    exists_ok: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(str(self.name)):
            raise InvalidSpec(
                f"name={self.name!r}: give lower-case letters, digits and "
                "hyphens, at most 40, the first of them a letter"
            )
        zones: object = self.zones
        if not isinstance(zones, tuple) or len({*zones}) < len(zones):
            raise InvalidSpec(
                f"zones={self.zones!r} of {self.name}: give a tuple of "
                "different zones, the best first"
            )

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it is like, as plain data; of secrets, digests."""
        return settings_of(self)

    def elsewhere(self) -> Self | None:
        """Describe the same in the next of its zones; None if it was last."""
        if len(self.zones) < 2:
            return None
        return replace(self, zones=self.zones[1:])


@dataclass(frozen=True)
class ClusterSpec(_Placed):
    """A Kubernetes cluster."""

    @property
    def key(self) -> Key:
        """Which resource it describes."""
        return Key(Kind.CLUSTER, self.name)


@dataclass(frozen=True)
class NodePoolSpec(_Placed):
    """Machines of one kind in a cluster.

    Attributes:
        cluster: Name of the cluster; before it is asked for, at the latest.
        num_nodes: How many machines.
        machine_type: Their type, in the cloud's words.
        gpu_type: What GPUs each has, in the cloud's words; "" for none.
        num_gpus: How many of them.
        spot: Whether they may be taken away at any time, for less money.
    """

    changeable: ClassVar[frozenset[str]] = frozenset({"num_nodes"})

    cluster: str = ""
    num_nodes: int = 1
    machine_type: str = ""
    gpu_type: str = ""
    num_gpus: int = 0
    spot: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cluster and not _NAME.fullmatch(self.cluster):
            raise InvalidSpec(
                f"cluster={self.cluster!r} of node pool {self.name}: give the "
                "name of its cluster"
            )
        if self.num_nodes < 1:
            raise InvalidSpec(
                f"num_nodes={self.num_nodes!r} of node pool {self.name}: give "
                "a positive number"
            )
        if (self.num_gpus > 0) != bool(self.gpu_type) or self.num_gpus < 0:
            raise InvalidSpec(
                f"num_gpus={self.num_gpus!r}, gpu_type={self.gpu_type!r} of "
                f"node pool {self.name}: give both or none"
            )

    @property
    def key(self) -> Key:
        """Which resource it describes.

        Raises:
            InvalidSpec: If it has no cluster yet.
        """
        if not self.cluster:
            raise InvalidSpec(
                f"node pool {self.name} has no cluster: add it to one, or "
                "give the name of one"
            )
        return Key(Kind.NODE_POOL, self.name, self.cluster)


@dataclass(frozen=True)
class VMSpec(_Placed):
    """A virtual machine.

    Attributes:
        machine_type: Its type, in the cloud's words.
    """

    machine_type: str = ""

    @property
    def key(self) -> Key:
        """Which resource it describes."""
        return Key(Kind.VM, self.name)


@dataclass(frozen=True)
class Observed:
    """What a cloud says of a resource.

    Attributes:
        key: Which it is.
        state: What becomes of it.
        labels: Those it carries.
        cause: Why it is broken.
        reason: What the cloud says about its state.
        created: When it was created, in seconds since 1970; 0 if nobody
            knows.
        settings: What it is like, in the words of its `Spec`, as far as it is
            known.
        where: In which of its zones; "" if nobody knows.
    """

    key: Key
    state: State
    labels: Mapping[str, str] = field(default_factory=dict)
    cause: Cause = Cause.OTHER
    reason: str = ""
    created: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
