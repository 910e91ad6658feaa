"""Pure: what GKE's texts say that we have to tell apart.

Codes come first; but a lack of machines is told in the text of an operation
only, and what quota is short in no other place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hermes.cloudbreak.specs import Cause

__all__ = ("explain", "find_cause")

_STOCK_OUT = re.compile(
    r"GCE_STOCKOUT|ZONE_RESOURCE_POOL_EXHAUSTED"
    r"|not have enough resources available"
)
_QUOTA = re.compile(
    r"QUOTA_EXCEEDED|[Ii]nsufficient (regional|project|zonal)? ?quota"
    r"|[Qq]uota '\w+' exceeded"
)
_NAMES = (
    re.compile(r"""[Qq]uota ['"]([A-Z0-9_]+)['"]"""),
    re.compile(r"""resource:? ['"]([A-Z0-9_]+)['"]"""),
)


def find_cause(codes: Iterable[str], text: str) -> Cause:
    """Tell why something broke, by codes of its conditions and a text."""
    said = " ".join((*codes, text))
    if _QUOTA.search(said):  # it may stand beside the other, and lasts longer
        return Cause.QUOTA
    return Cause.STOCK_OUT if _STOCK_OUT.search(said) else Cause.OTHER


def explain(cause: Cause, text: str, what: str, where: str) -> str:
    """Say why something broke: which quota, or of what there is none where.

    Args:
        cause: Its cause.
        text: What the cloud says.
        what: What kind of machines.
        where: In which zones.
    """
    text = " ".join(text.split()) or "GKE does not say why"
    if cause is Cause.STOCK_OUT:
        return f"none left of {what} in {where} ({text})"
    if cause is Cause.QUOTA:
        return f"the quota {_name_quota(text)} is too small ({text})"
    return text


def _name_quota(text: str) -> str:
    for form in _NAMES:
        if found := form.search(text):
            return found[1]
    return "of something"
