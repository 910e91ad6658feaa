"""The labels by which we find again what is ours, whoever created it.

Every resource carries them from the moment it exists, because nothing else is
left when the program that asked for it was killed before the answer came.
"""

from __future__ import annotations

import getpass
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from hermes.cloudbreak.errors import InvalidSpec

__all__ = ("OWNER", "RUN", "Stamp")

OWNER, RUN, DEADLINE = "hermes-owner", "hermes-run", "hermes-deadline"
# What Google's labels may be, and, but for the underscore at an end, those of
# Kubernetes.
_VALUE = re.compile(r"[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Stamp:
    """Whose a resource is, and until when.

    Attributes:
        owner: Who answers for it.
        run: The run of a program that asked for it.
        deadline: When it may be deleted by anybody, in seconds since 1970.
    """

    owner: str
    run: str
    deadline: int

    def __post_init__(self) -> None:
        for name in ("owner", "run"):
            value = getattr(self, name)
            if not (isinstance(value, str) and _VALUE.fullmatch(value)):
                raise InvalidSpec(
                    f"{name}={value!r}: labels are at most 63 lower-case "
                    "letters, digits, hyphens and underscores"
                )

    @classmethod
    def make(cls, owner: str | None, run: str | None, deadline: float) -> Self:
        """Make one of what is given.

        Args:
            owner: Who answers for it; who runs this program if None.
            run: The run; something unique if None.
            deadline: In seconds since 1970.

        Raises:
            InvalidSpec: If it cannot be a label.
        """
        if not math.isfinite(deadline):
            raise InvalidSpec(
                f"lifetime: {deadline} is no time; give seconds after which "
                "it may be deleted"
            )
        if owner is None:
            user = re.sub("[^a-z0-9]+", "-", _find_user().lower())
            owner = user.strip("-")[:63].strip("-") or "unknown"
        return cls(owner, run or uuid.uuid4().hex[:12], int(deadline))

    @property
    def labels(self) -> dict[str, str]:
        """Labels for a cloud."""
        return {
            OWNER: self.owner,
            RUN: self.run,
            DEADLINE: str(int(self.deadline)),
        }

    def is_on(self, labels: Mapping[str, str]) -> bool:
        """Tell whether labels are of the same run, whatever its deadline."""
        found = self.read(labels)
        if found is None:
            return False
        return (found.owner, found.run) == (self.owner, self.run)

    @classmethod
    def read(cls, labels: Mapping[str, str]) -> Stamp | None:
        """Read labels; None where they are not ours."""
        try:
            return cls(labels[OWNER], labels[RUN], int(labels[DEADLINE]))
        except (KeyError, ValueError):
            return None


def _find_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # such as in a container
        raise InvalidSpec(
            "owner=None: this user has no name here; give an owner, who "
            "answers for what is created"
        ) from error
