"""hermes-cloud on Compute Engine's rules, from a file to nothing left."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import compute_server
import pytest

from hermes.cloudbreak import _commands
from hermes.cloudbreak.clouds.google import ComputeCloud
from hermes.cloudbreak.specs import Kind
from hermes.cloudbreak.testing import FakeClock

FILE = """
run = "night"
owner = "alice"
lifetime = "2h"
[google]
project = "project"
[[vm]]
name = "reader"
zones = ["us-central1-a", "us-central1-b"]
num_vms = 4
[[vm]]
name = "writer"
zones = ["europe-west4-a"]
machine_type = "n1-standard-8"
gpu_type = "nvidia-tesla-t4"
num_gpus = 1
"""


def test_up_status_logs_down_and_reap(
    compute: compute_server.Compute,
    cloud: ComputeCloud,
    fake_clock: FakeClock,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    file = tmp_path / "cloud.toml"
    file.write_text(FILE)
    compute.sold_out = {"us-central1-a"}

    def run(command: str, *words: str) -> str:
        code = _commands.run(
            [command, str(file), *words],
            lambda _plan: {Kind.VM: cloud},
            fake_clock.clock,
        )
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    assert "num_vms=4" in run("plan", "--offline")
    assert compute.calls == []
    run("up", "--yes")
    assert len(compute.names) == 5
    assert {compute.find(n).zone for n in compute.names} == {
        "us-central1-b",
        "europe-west4-a",
    }
    assert run("status").count("ready") == 2
    assert "reader-003: reader-003 booted" in run("logs")
    file.write_text(FILE.replace("num_vms = 4", "num_vms = 6"))
    assert "num_vms 4 -> 6" in run("plan")
    assert len(compute.names) == 5
    assert "num_vms 4 -> 6" in run("up", "--yes")
    assert len(compute.names) == 7
    file.write_text(FILE.replace("num_vms = 4", "num_vms = 0"))
    assert "down: 2 resources" in run("down", "--yes")
    file.write_text(FILE)
    assert compute.names == []
    run("up", "--yes")
    assert "deleted VM writer" in run("reap", "--older-than", "0s", "--yes")
    assert compute.names == []
    run("up", "--yes")
    fake_clock.advance(7300)  # and Google itself has deleted them
    assert compute.names == []
    assert "0 resources" in run("reap")


@pytest.mark.parametrize(
    ("said", "trouble"),
    [
        ({"startup": "0"}, ""),
        (
            {"startup": "7", "startup-log": "no such driver"},
            "script of reader-00[0-3] has failed with exit code 7: no such dr",
        ),
        (
            {"startup": "running"},
            "VM reader: the start-up scripts of 4 machines go on, such as re",
        ),
    ],
)
def test_up_waits_until_startup_scripts_have_ended_well(
    compute: compute_server.Compute,
    cloud: ComputeCloud,
    fake_clock: FakeClock,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    said: dict[str, str],
    trouble: str,
) -> None:
    file = tmp_path / "cloud.toml"
    file.write_text(
        FILE.replace("num_vms = 4", 'num_vms = 4\nstartup_script = "make"')
    )
    compute.guest = {("hermes", "startup"): "running"}
    asked: list[str] = []

    def sleep(seconds: float) -> None:
        fake_clock.advance(seconds)
        if compute.calls[-1] == "instances.getGuestAttributes":
            asked.append(compute.calls[-1])
        if len(asked) == 3:
            for key, value in said.items():
                compute.guest["hermes", key] = value

    code = _commands.run(
        ["up", str(file), "--yes"],
        lambda _plan: {Kind.VM: cloud},
        replace(fake_clock.clock, sleep=sleep),
    )
    assert len(asked) >= 3
    assert code == bool(trouble)
    assert re.search(trouble, capsys.readouterr().err)
    assert len(compute.names) == (0 if trouble else 5)
