"""What Compute Engine lets one choose: plain, frozen data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from hermes.cloudbreak.clouds.google._machines import check_gpus
from hermes.cloudbreak.clouds.google._specs import (
    check_run,
    is_zone,
    limit_run,
)
from hermes.cloudbreak.errors import InvalidSpec
from hermes.cloudbreak.specs import VMSpec

__all__ = ("VMDescription",)

_MOST = 1000  # that one call creates


@dataclass(frozen=True)
class VMDescription(VMSpec):
    """A swarm: virtual machines that are alike, created by one call.

    All of them are there or none, in one zone. They are ``name-000``,
    ``name-001`` and so on.

    Attributes:
        name: Lower-case letters, digits and hyphens, at most 40.
        zones: Where they may be, the best first; at least one.
        exists_ok: Whether a swarm that is there already will do.
        machine_type: Their type.
        num_vms: How many.
        image: What their disks begin with: an image, or a family of images.
        disk_gb: Size of each one's disk [GB].
        disk_type: Such as ``"pd-ssd"``.
        gpu_type: Google's name of their GPUs; "" for none. Types that are
            sold with GPUs only need it, too.
        num_gpus: GPUs of each.
        spot: Whether they may be taken away at any time, for less money.
        network: Their network.
        subnetwork: Its part; Google's choice if empty.
        has_external_address: Whether they can be reached from outside.
        service_account: Whose name their programs act in; nobody's if empty.
        startup_script: What each runs as root when it boots; they are ready
            when it has ended well. May be a secret, and is not printed.
        metadata: What programs on them can read; not printed either.
        tags: By which firewall rules know them.
        max_run_seconds: When Google itself deletes each, counted from its
            start. The deadline of who asks for them holds, too.
    """

    changeable: ClassVar[frozenset[str]] = frozenset({"num_vms"})

    machine_type: str = "e2-standard-4"
    num_vms: int = 1
    image: str = "projects/debian-cloud/global/images/family/debian-12"
    disk_gb: int = 50
    disk_type: str = "pd-balanced"
    gpu_type: str = ""
    num_gpus: int = 0
    spot: bool = False
    network: str = "global/networks/default"
    subnetwork: str = ""
    has_external_address: bool = True
    service_account: str = ""
    startup_script: str = field(default="", repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    tags: tuple[str, ...] = ()
    max_run_seconds: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.zones or not all(is_zone(str(z)) for z in self.zones):
            raise InvalidSpec(
                f"zones={self.zones!r} of {self.name}: give zones such as "
                "('us-central1-a', 'us-central1-b'), the best first"
            )
        number: object = self.num_vms
        if not isinstance(number, int) or not 1 <= number <= _MOST:
            raise InvalidSpec(
                f"num_vms={self.num_vms!r} of {self.name}: give a number from "
                f"1 to {_MOST}"
            )
        if self.disk_gb < 10:
            raise InvalidSpec(
                f"disk_gb={self.disk_gb!r} of {self.name}: give at least 10"
            )
        if (self.num_gpus > 0) != bool(self.gpu_type) or self.num_gpus < 0:
            raise InvalidSpec(
                f"num_gpus={self.num_gpus!r}, gpu_type={self.gpu_type!r} of "
                f"{self.name}: give both or none"
            )
        check_run(self.name, self.max_run_seconds)
        if self.startup_script and "startup-script" in self.metadata:
            raise InvalidSpec(
                f"{self.name} has two start-up scripts: give startup_script, "
                "or startup-script of its metadata, which is not waited for"
            )
        check_gpus(self.machine_type, self.gpu_type, self.num_gpus)

    def ends_after(self, seconds_left: float) -> int:
        """Tell when each ends [s], counted from its start.

        Args:
            seconds_left: Of the lifetime of who asks for them.
        """
        return limit_run(min(self.max_run_seconds or math.inf, seconds_left))

    @property
    def vm_names(self) -> tuple[str, ...]:
        """What its machines are called."""
        return tuple(f"{self.name}-{i:03}" for i in range(self.num_vms))
