"""Calls of a real Kubernetes cluster."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.kubernetes


def test_versions_are_found_by_asking(access) -> None:
    assert access.supports("apps/v1")
    assert not access.supports("policy/v1")  # not in 1.20
