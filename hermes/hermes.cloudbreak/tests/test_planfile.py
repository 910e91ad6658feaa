"""Files that say what is wanted, strictly read."""

from __future__ import annotations

import re
import tomllib

import pytest

from hermes.cloudbreak._planfile import KINDS, read_plan, rows, seconds
from hermes.cloudbreak.clouds.google import Cluster, NodePool, VMDescription
from hermes.cloudbreak.deployment import TritonSpec
from hermes.cloudbreak.errors import InvalidSpec
from hermes.cloudbreak.specs import Key, Kind, Observed, State

WHOLE = """
run = "o4-rerun"
owner = "alice"
lifetime = "6h"

[google]
project = "my-project"

[kubernetes]
namespace = "inference"

[[cluster]]
name = "inference"
zones = ["us-central1-a", "us-central1-b"]

[[node_pool]]
name = "l4"
cluster = "inference"
machine_type = "g2-standard-4"
gpu_type = "nvidia-l4"
num_gpus = 1
max_run_seconds = 3600

[[triton]]
name = "server"
repository = "gs://bucket/models"
replicas = 4
env = {PASSWORD = "s3cret"}

[[vm]]
name = "reader"
zones = ["us-central1-a"]
num_vms = 8
startup_script = "echo s3cret"
"""


def read(text: str):
    return read_plan(tomllib.loads(text))


def test_every_kind_is_read_into_its_class() -> None:
    plan = read(WHOLE)
    assert [type(each) for each in plan.specs] == [
        Cluster,
        NodePool,
        TritonSpec,
        VMDescription,
    ]
    assert plan.specs[0].zones == ("us-central1-a", "us-central1-b")
    assert plan.specs[1].max_run_seconds == 3600
    assert plan.specs[2].env == {"PASSWORD": "s3cret"}
    assert plan.settings == {
        "google": {"project": "my-project"},
        "kubernetes": {"namespace": "inference"},
    }
    stamp = plan.stamp(1000)
    assert (stamp.owner, stamp.run) == ("alice", "o4-rerun")
    assert stamp.deadline == 1000 + 6 * 3600
    assert plan.kinds == {each.kind for each in KINDS.values()}


def test_rows_say_what_would_be_done_and_no_secrets() -> None:
    plan = read(WHOLE)
    observed = [
        Observed(Key(Kind.CLUSTER, "inference"), State.READY),
        Observed(Key(Kind.VM, "old"), State.READY),
    ]
    found = rows(plan, observed)
    assert [(each.action, each.key.name) for each in found] == [
        ("keep", "inference"),
        ("create", "l4"),
        ("create", "server"),
        ("create", "reader"),
        ("delete", "old"),
    ]
    assert found[3].where == "us-central1-a"
    assert found[3].what == "num_vms=8, each machine ends after 6 h"
    assert found[1].what.endswith("each machine ends after 1 h")
    assert "ends after" not in found[0].what + found[2].what
    assert "gpu_type=nvidia-l4" in found[1].what
    assert "s3cret" not in str(found)
    assert "env=['PASSWORD']" in found[2].what


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            (
                '[[triton]]\nname = "t"\nrepository = "gs://b"\n'
                'env = {KEY = ["s3cret"]}'
            ),
            "[[triton]] t: env.KEY=(a list of texts): give a text",
        ),
        (
            (
                '[[vm]]\nname = "a"\nzones = ["us-central1-a"]\n'
                'metadata = {KEY = {deeper = "s3cret"}}'
            ),
            "metadata.KEY=(a table): give a text",
        ),
        (
            (
                '[[vm]]\nname = "a"\nzones = ["us-central1-a"]\n'
                'startup_script = ["s3cret"]'
            ),
            "startup_script=(a list of texts): give a text",
        ),
        (
            '[google.credentials]\nprivate_key = "s3cret"',
            "[google] credentials=(a table): give a text",
        ),
    ],
)
def test_what_may_be_a_secret_is_in_no_error(text: str, message: str) -> None:
    with pytest.raises(InvalidSpec, match=re.escape(message)) as caught:
        read(f'run = "a"\n{text}')
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "number"),
    [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2d", 172800)],
)
def test_durations(text: str, number: float) -> None:
    assert seconds(text) == number


VM = '[[vm]]\nname = "a"\nzones = ["us-central1-a"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('run = "a"\nowner = 5', "owner=5: labels are"),
        ('run = "a"\nvm = [1]', "[vm] has to be written as [[vm]]"),
        ('run = "a"\nlifetime = "0s"', "lifetime='0s': give"),
        ('run = "a"\ntimeout = "0h"', "timeout='0h': give"),
        ("", 'the file has no run: write run = "a-name"'),
        ('run = "A B"', "run='A B': labels are"),
        ('run = "a"\nlivetime = "6h"', "no livetime: did you mean lifetime?"),
        ('run = "a"\nlifetime = "6 hours"', "'6 hours' is no duration"),
        ('run = "a"\nxyz = 1', "knows no xyz: there are cluster, google,"),
        ('run = "a"\n[vm]\nname = "a"', "has to be written as [[vm]]"),
        ('run = "a"\n[google]\nprojekt = "x"', "[google] knows no projekt"),
        ('run = "a"\ngoogle = 1', "write [google]"),
        ('run = "a"\n[google]\nproject = 1', "project=1: give a text"),
        (f'run = "a"\n{VM}machin_type = "x"', "did you mean machine_type?"),
        (f'run = "a"\n{VM}num_vms = "8"', "num_vms='8': give a whole number"),
        (f'run = "a"\n{VM}num_vms = true', "num_vms=True: give a whole"),
        (f'run = "a"\n{VM}spot = 1', "spot=1: give true or false"),
        (f'run = "a"\n{VM}tags = "x"', "tags='x': give a list of texts"),
        (f'run = "a"\n{VM}metadata = "x"', "metadata=(a text): give a table"),
        (f'run = "a"\n{VM}max_run_seconds = "x"', "give a number"),
        (f'run = "a"\n{VM}num_vms = 0', "give a number from 1"),
        (f'run = "a"\n{VM}{VM}', "VM a is there twice"),
        ('run = "a"\n[[vm]]\nnum_vms = 1', "[[vm]] has no name"),
        ('run = "a"\n[[triton]]\nname = "t"', "t has no repository"),
        (
            'run = "a"\n[[node_pool]]\nname = "p"\ncluster = "c"',
            "there is no such cluster in the file",
        ),
        (
            'run = "a"\n[[node_pool]]\nname = "p"\ngpu_driver = "newest"',
            "give 'default' or 'latest' or 'disabled'",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_its_place(
    text: str, message: str
) -> None:
    with pytest.raises(InvalidSpec, match=re.escape(message)):
        read(text)
