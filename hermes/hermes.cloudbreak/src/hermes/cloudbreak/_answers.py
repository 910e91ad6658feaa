"""What a Kubernetes cluster answers, and which of our errors it is: pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hermes.cloudbreak.errors import (
    AlreadyThere,
    CloudError,
    CloudUnavailable,
    NotThere,
    QuotaExceeded,
    Refused,
)

__all__ = ("Answer", "Manifest", "translate")

Manifest = dict[str, Any]
# Who we are, where a cluster keeps who has set what.
MANAGER = "hermes"


@dataclass(frozen=True)
class Answer:
    """What a cluster answers."""

    status: int
    body: bytes

    def json(self) -> Manifest:
        """Give it as an object; empty if it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {}


def translate(answer: Answer, what: str) -> CloudError:
    """Translate what a cluster refuses to do."""
    told = answer.json()
    message = told.get("message") or answer.body.decode(errors="replace")[:300]
    causes = [
        f"{each.get('field')}: {each.get('message')}"
        for each in (told.get("details") or {}).get("causes") or []
        if each.get("field") and each.get("field") not in message
    ]
    text = "; ".join([f"{what}: {answer.status} {message}".strip(), *causes])
    return _kind(answer.status, told.get("reason"), message)(text)


def _kind(status: int, reason: object, message: str) -> type[CloudError]:
    if status == 409:
        if reason == "AlreadyExists":
            return AlreadyThere
        # Else somebody has changed it meanwhile.
        is_another = "UID in the precondition" in message
        return NotThere if is_another else CloudUnavailable
    if status == 403 and "exceeded quota" in message:
        return QuotaExceeded
    if status == 404:
        return NotThere
    # A pod that is just being placed anew cannot be connected to.
    is_waiting = status == 400 and "not have a host assigned" in message
    if is_waiting or status == 429 or status >= 500:
        return CloudUnavailable
    return Refused
