"""Calls of a real Kubernetes cluster."""

from __future__ import annotations
import pytest

pytestmark = pytest.mark.kubernetes


def test_nodes(control_plane, access):
    print(
        access, access.supports("policy/v1"), access.supports("policy/v1beta1")
    )
