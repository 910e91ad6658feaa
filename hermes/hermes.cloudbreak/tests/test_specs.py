"""Descriptions of resources, and the labels that they carry."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.cloudbreak.errors import InvalidSpec
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.specs import ClusterSpec, NodePoolSpec, VMSpec


@pytest.mark.parametrize(
    "name", ["", "A", "1a", "a_b", "a-", "a" * 41, "a b", None, 7]
)
def test_names_that_a_cloud_refuses_are_refused_first(name: Any) -> None:
    with pytest.raises(InvalidSpec, match="lower-case letters, digits"):
        ClusterSpec(name)


@pytest.mark.parametrize("zones", ["us-central1-a", ["a"], ("a", "a")])
def test_zones_are_a_tuple_of_different_ones(zones: Any) -> None:
    with pytest.raises(InvalidSpec, match="tuple of different zones"):
        VMSpec("vm", zones)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cluster": "No"}, "the name of its cluster"),
        ({"num_nodes": 0}, "num_nodes=0"),
        ({"num_gpus": 1}, "give both or none"),
        ({"gpu_type": "nvidia-l4"}, "give both or none"),
        ({"gpu_type": "nvidia-l4", "num_gpus": -1}, "give both or none"),
    ],
)
def test_wrong_node_pools_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        NodePoolSpec("pool", **{"cluster": "main", **wrong})


def test_a_node_pool_has_a_cluster_when_it_is_asked_for() -> None:
    with pytest.raises(InvalidSpec, match="has no cluster: add it to one"):
        _ = NodePoolSpec("pool").key


def test_a_stock_out_moves_on_until_there_is_no_zone_left() -> None:
    spec = VMSpec("vm", ("a", "b"), machine_type="g2-standard-4")
    moved = spec.elsewhere()
    assert moved == VMSpec("vm", ("b",), machine_type="g2-standard-4")
    assert moved.elsewhere() is None
    assert VMSpec("vm").elsewhere() is None


def test_a_key_says_what_it_is_of() -> None:
    pool = NodePoolSpec("gpus", cluster="main")
    assert str(pool.key) == "node pool gpus of cluster main"
    assert pool.key.parent == ClusterSpec("main").key
    assert VMSpec("a").key.parent is None


LABELS = st.from_regex(r"[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@given(LABELS, LABELS, st.integers(0, 2**33))
def test_labels_come_back(owner: str, run: str, deadline: int) -> None:
    stamp = Stamp(owner, run, deadline)
    assert Stamp.read(stamp.labels | {"other": "label"}) == stamp
    assert all(len(value) <= 63 for value in stamp.labels.values())


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"hermes-owner": "me", "hermes-run": "r"},
        {"hermes-owner": "me", "hermes-run": "r", "hermes-deadline": "soon"},
        {"hermes-owner": "Me!", "hermes-run": "r", "hermes-deadline": "1"},
    ],
)
def test_labels_of_others_are_not_taken_for_ours(labels: Any) -> None:
    assert Stamp.read(labels) is None


@pytest.mark.parametrize("owner", ["", "Me", "a b", "-a", "a" * 64])
def test_owners_that_are_no_label_are_refused(owner: str) -> None:
    with pytest.raises(InvalidSpec, match="owner="):
        Stamp(owner, "run", 1)


def test_a_stamp_makes_up_what_is_not_given(monkeypatch) -> None:
    monkeypatch.setenv("LOGNAME", "Albert.Einstein")
    one, other = (Stamp.make(None, None, 1.8e9) for _ in range(2))
    assert one.owner == "albert-einstein"
    assert one.run != other.run
    assert one.deadline == 1_800_000_000
    assert Stamp.make("me", "o4", 1) == Stamp("me", "o4", 1)


@pytest.mark.parametrize("deadline", [math.inf, math.nan])
def test_a_lifetime_has_an_end(deadline: float) -> None:
    with pytest.raises(InvalidSpec, match="is no time; give seconds"):
        Stamp.make("me", "o4", deadline)


def test_a_user_without_a_name_has_to_give_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 9)
    with pytest.raises(InvalidSpec, match="give an owner"):
        Stamp.make(None, None, 1.8e9)
