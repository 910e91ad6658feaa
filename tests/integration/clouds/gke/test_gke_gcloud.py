"""gcloud sees what we create, and deletes it: an independent client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest
from _gke_rest import Rest
from _gke_rules import Project
from gke import Server

from hermes.cloudbreak.clouds import google

pytestmark = pytest.mark.skipif(
    shutil.which("gcloud") is None, reason="gcloud is not installed"
)


@pytest.fixture
def project() -> Project:
    return Project(seconds=0.2)


@pytest.fixture
def rest(server: Server) -> Iterator[Rest]:
    made = Rest(server)
    yield made
    made.close()


@pytest.fixture
def gcloud(rest: Rest, tmp_path) -> Callable[..., object]:
    """Run ``gcloud container``; give what it says."""
    env = {
        **os.environ,
        "HOME": str(tmp_path),
        "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER": rest.url,
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_CORE_PROJECT": "test-project",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
    }

    def run(*arguments: str) -> object:
        done = subprocess.run(
            [shutil.which("gcloud"), "container", *arguments, "--format=json"],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")

    return run


def test_gcloud_sees_and_deletes_what_we_create(
    server, project, rest, gcloud
) -> None:
    manager = google.ClusterManager(
        "us-central1-a", "test-project", transport=server.transport()
    )
    with manager:
        cluster = manager.add(google.Cluster("main"))
        cluster.add(google.NodePool("cpus", num_nodes=2, spot=True))
        (listed,) = gcloud("clusters", "list")
        assert (listed["name"], listed["status"]) == ("main", "RUNNING")
        assert listed["resourceLabels"] == manager.stamp.labels
        pool = gcloud(
            "node-pools",
            "describe",
            "cpus",
            "--cluster=main",
            "--location=us-central1-a",
        )
        assert (pool["initialNodeCount"], pool["config"]["spot"]) == (2, True)
        gcloud("clusters", "delete", "main", "--location=us-central1-a")
        assert project.resources == []
    assert rest.unknown == []
