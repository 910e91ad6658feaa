"""What GKE and Kubernetes say, and what we make of it."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
from google.cloud.container_v1 import types

import hermes.cloudbreak
from hermes.cloudbreak.clouds.google._nodes import (
    Endpoint,
    Node,
    find_lack,
    read_nodes,
)
from hermes.cloudbreak.clouds.google._reading import (
    observed_cluster,
    observed_pool,
    target_of,
)
from hermes.cloudbreak.clouds.google._words import explain, find_cause
from hermes.cloudbreak.specs import Cause, State


@pytest.mark.parametrize("kind", [types.Cluster, types.NodePool])
def test_every_status_has_a_meaning(kind: type) -> None:
    for status in kind.Status:
        if kind is types.Cluster:
            found = observed_cluster(types.Cluster(name="c", status=status))
        else:
            pool = types.NodePool(name="p", status=status)
            found = observed_pool(types.Cluster(name="c"), pool)
        assert (found.state is State.READY) == (status.name == "RUNNING")
        assert (found.state is State.DELETING) == (status.name == "STOPPING")
        is_broken = found.state is State.BROKEN
        assert is_broken == any(
            word in status.name for word in ("ERROR", "DEGRADED")
        )


def test_what_a_cluster_says_is_told() -> None:
    cluster = types.Cluster(
        name="c",
        status=types.Cluster.Status.RECONCILING,
        status_message="upgrading",
        create_time="2026-11-27T18:00:00+00:00",
    )
    found = observed_cluster(cluster)
    assert found.reason == "RECONCILING: upgrading"
    assert found.created == 1795802400


@pytest.mark.parametrize(
    ("codes", "text", "cause"),
    [
        (["GCE_STOCKOUT"], "", Cause.STOCK_OUT),
        (["UNKNOWN"], "[GCE_STOCKOUT]: no", Cause.STOCK_OUT),
        ([], "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", Cause.STOCK_OUT),
        (["GCE_QUOTA_EXCEEDED"], "", Cause.QUOTA),
        (["GCE_STOCKOUT"], "Quota 'CPUS' exceeded.", Cause.QUOTA),
        ([], 'Insufficient regional quota: resource "CPUS"', Cause.QUOTA),
        (["CA_EXPIRING"], "soon", Cause.OTHER),
    ],
)
def test_causes_are_told_apart(codes, text: str, cause: Cause) -> None:
    assert find_cause(codes, text) is cause


def test_reasons_name_what_is_missing() -> None:
    text = 'request: resource "NVIDIA_L4_GPUS": is short'
    found = explain(Cause.QUOTA, text, "g2", "a")
    assert found.startswith("the quota NVIDIA_L4_GPUS is too small (request")
    found = explain(Cause.STOCK_OUT, "sold\nout", "1 L4", "us-central1-a")
    assert found == "none left of 1 L4 in us-central1-a (sold out)"
    assert explain(Cause.OTHER, " ", "", "") == "GKE does not say why"
    assert "quota of something" in explain(Cause.QUOTA, "no", "", "")


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("https://x/v1/projects/p/zones/z/clusters/c", ("c", "")),
        ("https://x/v1/projects/p/zones/z/clusters/c/nodePools/n", ("c", "n")),
        ("", ("", "")),
    ],
)
def test_an_operation_is_about_something(link: str, target) -> None:
    assert target_of(SimpleNamespace(target_link=link)) == target


def test_what_a_pool_lacks_is_said_node_by_node() -> None:
    good = Node("a", True, 2)
    assert find_lack([good], 1, 2) == ""
    assert find_lack([], 2, 2) == "0 of 2 nodes have joined"
    late = [good, Node("b", False, 0, "no CNI"), Node("c", True, 1)]
    assert find_lack(late, 3, 2) == (
        "node b: not Ready no CNI, node c: nvidia.com/gpu is not allocatable "
        "(1 of 2): its driver has not come"
    )
    many = [Node(str(n), False) for n in range(64)]
    assert find_lack(many, 64, 1).endswith("node 2: not Ready, and 61 more")


def test_nodes_are_read_as_kubernetes_gives_them() -> None:
    status = {
        "conditions": [
            {"type": "MemoryPressure", "status": "False"},
            {"type": "Ready", "status": "True", "message": "fine"},
        ],
        "allocatable": {"nvidia.com/gpu": "4", "cpu": "7910m"},
    }
    found = read_nodes(
        [
            {"metadata": {"name": "a"}, "status": status},
            {"metadata": {"name": "b"}},
        ]
    )
    assert found == [Node("a", True, 4, "fine"), Node("b", False)]


def test_the_token_of_an_endpoint_is_not_shown() -> None:
    shown = repr(Endpoint("https://x", "PEM", lambda: "secret"))
    assert "token" not in shown
    assert "lambda" not in shown


def test_each_client_of_googles_has_one_importer() -> None:
    importers: dict[str, set[str]] = {}
    for path in Path(hermes.cloudbreak.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                importers.setdefault(name, set()).add(path.name)
    ours = {
        name.split(".")[1]: files
        for name, files in importers.items()
        if name.startswith("google.")
    }
    allowed = {
        "auth": {"_credentials.py"},
        "oauth2": {"_credentials.py"},
        "cloud": {"_gke.py"},
        "api_core": {"_gke.py"},
    }
    assert ours == allowed
