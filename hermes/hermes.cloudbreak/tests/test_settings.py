"""What a resource is like, written down and compared."""

from __future__ import annotations

from hermes.cloudbreak._settings import (
    differences,
    record,
    say_changes,
    unrecord,
)
from hermes.cloudbreak.clouds.google import NodePool, VMDescription
from hermes.cloudbreak.deployment import SecretValue, TritonSpec
from hermes.cloudbreak.specs import Observed, State

VMS = VMDescription("vms", ("us-central1-a",), startup_script="echo s3cret")


def test_what_is_written_is_read_again() -> None:
    found = unrecord(record(VMS, VMS.changeable))
    assert found == {n: v for n, v in VMS.settings.items() if n != "num_vms"}
    assert unrecord("") == unrecord("nothing of ours") == unrecord("[]") == {}


def test_secrets_are_told_apart_and_not_told() -> None:
    other = VMDescription("vms", VMS.zones, startup_script="echo hunter2")
    found = differences(other, observed(VMS))
    assert found.keys() == {"startup_script"}
    said = say_changes(found)
    assert said.startswith("startup_script sha256:")
    assert "s3cret" not in said
    assert "hunter2" not in said
    env = {"KEY": SecretValue("keys", "b"), "PLAIN": "s3cret"}
    settings = TritonSpec("t", "gs://b", env=env).settings
    assert settings["env"]["KEY"] == {"secret": "keys", "key": "b"}
    assert "s3cret" not in str(settings)


def test_a_pool_that_is_scaled_has_no_size_of_its_own() -> None:
    fixed = NodePool("p", cluster="c", num_nodes=2)
    scaled = NodePool("p", cluster="c", num_nodes=2, min_nodes=1, max_nodes=4)
    assert "num_nodes" in fixed.settings
    assert "num_nodes" not in scaled.settings
    said = say_changes(differences(scaled, observed(fixed)))
    assert said == "max_nodes None -> 4, min_nodes None -> 1"


def observed(spec) -> Observed:
    return Observed(spec.key, State.READY, settings=spec.settings)
