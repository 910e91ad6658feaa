"""Google's own command line, on the server that stands for Compute Engine.

It shares nothing with us, and keeps that server honest.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import compute_server
import pytest

from hermes.cloudbreak.clouds.google import ComputeCloud, VMDescription
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.testing import FakeClock


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not there")
def test_gcloud_lists_describes_and_deletes_what_we_create(
    compute: compute_server.Compute,
    cloud: ComputeCloud,
    fake_clock: FakeClock,
    tmp_path: Path,
) -> None:
    def gcloud(*words: str) -> object:
        done = subprocess.run(
            [shutil.which("gcloud"), "compute", "instances", *words],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "CLOUDSDK_CONFIG": str(tmp_path),
                "CLOUDSDK_CORE_PROJECT": "project",
                "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
                "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
                "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": compute.endpoint,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")

    day = int(fake_clock.clock.today()) + 86400
    spec = VMDescription("swarm", ("us-central1-a",), num_vms=2)
    cloud.create(spec, Stamp("alice", "run", day))
    fake_clock.advance(60)
    found = gcloud("list", "--format=json", "--filter=labels.hermes-run=run")
    assert [each["name"] for each in found] == ["swarm-000", "swarm-001"]
    zone = "--zone=us-central1-a"
    described = gcloud("describe", "swarm-001", zone, "--format=json")
    assert described["status"] == "RUNNING"
    assert described["labels"]["hermes-owner"] == "alice"
    compute.operation_seconds = compute.stop_seconds = 0
    gcloud("delete", "swarm-000", zone, "--format=json")
    assert compute.names == ["swarm-001"]
    assert cloud.find(spec.key).reason == "only 1 of 2 are there"
