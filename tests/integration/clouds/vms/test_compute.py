"""Swarms on Compute Engine, as its discovery document has it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import compute_server
import pytest
from google.auth.credentials import AnonymousCredentials
from google.oauth2.credentials import Credentials

from hermes.cloudbreak import errors
from hermes.cloudbreak.clouds.google import ComputeCloud, VMDescription
from hermes.cloudbreak.clouds.google._vm_bodies import (
    address_of,
    why_failed,
    zone_of,
)
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reaping import reap
from hermes.cloudbreak.reconciler import Reconciler
from hermes.cloudbreak.specs import Cause, Key, Kind, NodePoolSpec, State
from hermes.cloudbreak.testing import CloudSuite, FakeClock
from hermes.cloudbreak.waiting import Clock

ZONES = ("us-central1-a", "us-central1-b")
SPEC = VMDescription("swarm", ZONES, num_vms=3)
KEY = SPEC.key


RIGHT, OLD, OTHER = "s3cret-right", "s3cret-old", "s3cret-other"


def lose() -> None:
    raise compute_server.Lost


@pytest.fixture
def stamp(fake_clock: FakeClock) -> Stamp:
    return Stamp("alice", "run", int(fake_clock.clock.today()) + 7200)


@pytest.fixture
def start_again(
    reach: Callable[[], ComputeCloud], stamp: Stamp, fake_clock: FakeClock
) -> Iterator[Callable[[], Reconciler]]:
    """Be another program of the same run, which knows nothing."""
    with contextlib.ExitStack() as stack:

        def start() -> Reconciler:
            cloud = stack.enter_context(reach())
            return Reconciler(cloud, stamp, clock=fake_clock.clock)

        yield start


@pytest.fixture
def reconciler(
    cloud: ComputeCloud, stamp: Stamp, fake_clock: FakeClock
) -> Reconciler:
    return Reconciler(cloud, stamp, clock=fake_clock.clock)


class TestComputeCloud(CloudSuite):
    """It does what every cloud does."""

    @pytest.fixture
    def clock(self, fake_clock: FakeClock) -> Clock:
        return fake_clock.clock

    @pytest.fixture
    def specs(self) -> list[VMDescription]:
        return [SPEC]


def test_all_machines_come_in_one_call_and_64_are_no_more_rounds(
    compute: compute_server.Compute,
    reconciler: Reconciler,
    fake_clock: FakeClock,
) -> None:
    reconciler.bring_up([replace(SPEC, num_vms=64)], 600)
    assert len(compute.names) == 64
    assert compute.calls.count("instances.bulkInsert") == 1
    assert len(compute.calls) <= 20
    assert fake_clock.num_sleeps <= 10
    assert fake_clock.clock.now() < compute.boot_seconds + 15
    before = len(compute.calls)
    reconciler.take_down([KEY])
    assert compute.names == []
    later = compute.calls[before:]
    assert later.count("instances.delete") == 64
    assert len(later) <= 64 + 14


def test_pages_are_read_to_the_end(
    compute: compute_server.Compute, reconciler: Reconciler
) -> None:
    reconciler.bring_up([replace(SPEC, num_vms=600)], 600)
    assert len(compute.names) == 600
    reconciler.take_down([KEY])
    assert compute.names == []


def test_machines_carry_labels_and_end_by_themselves(
    compute: compute_server.Compute,
    cloud: ComputeCloud,
    stamp: Stamp,
    fake_clock: FakeClock,
) -> None:
    cloud.create(SPEC, stamp)
    (body,) = compute.bodies
    properties = body["instanceProperties"]
    assert Stamp.read(properties["labels"]) == stamp
    (disk,) = properties["disks"]
    assert disk["autoDelete"]
    assert disk["initializeParams"]["labels"] == properties["labels"]
    assert properties["scheduling"]["maxRunDuration"] == {"seconds": "7200"}
    assert properties["scheduling"]["instanceTerminationAction"] == "DELETE"
    assert body["minCount"] == body["count"] == "3"
    fake_clock.advance(7201)
    assert compute.names == []


def test_gpus_spot_and_accounts_are_asked_for(
    compute: compute_server.Compute, cloud: ComputeCloud, stamp: Stamp
) -> None:
    spec = replace(
        SPEC,
        machine_type="n1-standard-8",
        gpu_type="nvidia-tesla-t4",
        num_gpus=1,
        spot=True,
        service_account="me@project",
        has_external_address=False,
        subnetwork="regions/us-central1/subnetworks/mine",
        tags=("ssh",),
        max_run_seconds=600,
    )
    cloud.create(spec, stamp)
    properties = compute.bodies[0]["instanceProperties"]
    assert properties["scheduling"]["provisioningModel"] == "SPOT"
    assert properties["scheduling"]["maxRunDuration"] == {"seconds": "600"}
    assert properties["guestAccelerators"][0]["acceleratorCount"] == 1
    assert properties["serviceAccounts"][0]["email"] == "me@project"
    assert "accessConfigs" not in properties["networkInterfaces"][0]
    assert properties["tags"] == {"items": ["ssh"]}


def test_a_stock_out_goes_on_to_the_next_zone(
    compute: compute_server.Compute, reconciler: Reconciler
) -> None:
    compute.sold_out = {ZONES[0]}
    reconciler.bring_up([SPEC], 600)
    assert {compute.find(name).zone for name in compute.names} == {ZONES[1]}
    reconciler.take_down([KEY])
    compute.sold_out = {*ZONES}
    with pytest.raises(
        errors.ResourceFailed,
        match="none left of 3 x e2-standard-4 in us-central1-b",
    ):
        reconciler.bring_up([SPEC], 600)
    assert compute.names == []


def test_a_quota_is_named_with_its_region_and_limit(
    compute: compute_server.Compute, reconciler: Reconciler
) -> None:
    compute.quotas = {"us-central1": 8}
    with pytest.raises(
        errors.ResourceFailed,
        match=r"quota compute.googleapis.com/cpus of us-central1 is 8",
    ):
        reconciler.bring_up([SPEC], 600)
    assert compute.calls.count("instances.bulkInsert") == 1


def test_a_quota_counts_more_than_a_stock_out(
    compute: compute_server.Compute, reconciler: Reconciler
) -> None:
    compute.quotas = {"us-central1": 8}
    compute.sold_out = {ZONES[0]}
    with pytest.raises(errors.ResourceFailed, match=r"quota compute.*cpus of"):
        reconciler.bring_up([SPEC], 600)
    assert compute.calls.count("instances.bulkInsert") == 1


def test_too_few_machines_without_a_reason_are_a_stock_out(
    compute: compute_server.Compute, reconciler: Reconciler
) -> None:
    compute.sold_out, compute.terse = {ZONES[0]}, 1
    reconciler.bring_up([SPEC], 600)
    assert {compute.find(name).zone for name in compute.names} == {ZONES[1]}


@pytest.mark.parametrize(
    ("codes", "cause"),
    [
        (["VM_MIN_COUNT_NOT_REACHED"], Cause.STOCK_OUT),
        (["VM_MIN_COUNT_NOT_REACHED", "STOCKOUT"], Cause.STOCK_OUT),
        (["STOCKOUT", "QUOTA_EXCEEDED"], Cause.QUOTA),
        (["VM_MIN_COUNT_NOT_REACHED", "QUOTA_EXCEEDED"], Cause.QUOTA),
        (["VM_MIN_COUNT_NOT_REACHED", "INVALID_USAGE"], Cause.OTHER),
    ],
)
def test_what_stands_beside_too_few_machines_is_why(
    codes: list[str], cause: Cause
) -> None:
    text = "Quota 'NVIDIA_L4_GPUS' exceeded.  Limit: 0.0"
    failures = [{"code": code, "message": text} for code in codes]
    operation = {"error": {"errors": failures}}
    found, reason = why_failed(operation, SPEC, ZONES[0])
    assert found is cause
    assert "NVIDIA_L4_GPUS" in reason
    assert ("the quota NVIDIA_L4_GPUS is" in reason) == (cause is Cause.QUOTA)
    assert why_failed({"status": "DONE"}, SPEC, ZONES[0]) is None


@pytest.mark.parametrize("number", range(1, 13))
def test_a_lost_answer_anywhere_leaves_nothing_twice(
    compute: compute_server.Compute, reconciler: Reconciler, number: int
) -> None:
    # twice: the client below sends once more by itself
    compute.faults = {number: lose, number + 1: lose}
    compute.lag = 3
    reconciler.bring_up([SPEC], 600)
    assert compute.names == [f"swarm-00{i}" for i in range(3)]
    reconciler.take_down([KEY])
    assert compute.names == []


def test_a_swarm_that_was_deleted_can_be_asked_for_again(
    compute: compute_server.Compute, reconciler: Reconciler
) -> None:
    compute.faults = {3: lose, 4: lose}  # Google knows the request now
    reconciler.bring_up([SPEC], 600)
    reconciler.take_down([KEY])
    reconciler.bring_up([SPEC], 600)
    assert len(compute.names) == 3


@pytest.mark.parametrize(
    "fault",
    [
        (429, "rateLimitExceeded"),
        (503, "backendError"),
        (403, "rateLimitExceeded"),
        (409, "resourceNotReady"),
    ],
)
def test_bursts_of_trouble_are_outlasted(
    compute: compute_server.Compute,
    reconciler: Reconciler,
    fault: tuple[int, str],
) -> None:
    compute.faults = dict.fromkeys([*range(1, 4), *range(6, 11)], fault)
    reconciler.bring_up([SPEC], 600)
    compute.faults = dict.fromkeys(
        range(len(compute.calls), len(compute.calls) + 6), fault
    )
    reconciler.take_down([KEY])
    assert compute.names == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine_type": "e2-huge"}, "'e2-huge' does not exist"),
        ({"zones": ("mars-north1-a",)}, "zone 'mars-north1-a' was not found"),
        ({"tags": (1,)}, "not string"),
    ],
)
def test_what_google_does_not_know_is_refused_with_its_words(
    compute: compute_server.Compute,
    reconciler: Reconciler,
    change: dict,
    message: str,
) -> None:
    with pytest.raises(errors.Refused, match=message):
        reconciler.bring_up([replace(SPEC, **change)], 600)
    assert compute.names == []


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ((401, "authError"), errors.Refused, "401.*look at the credentials"),
        ((403, "forbidden"), errors.Refused, "403.*what they may do"),
        ((403, "quotaExceeded"), errors.QuotaExceeded, "403"),
        ((409, "alreadyExists"), errors.AlreadyThere, "409"),
        ((404, "notFound"), errors.Refused, "404"),
        ((503, "backendError"), errors.CloudUnavailable, "503"),
    ],
)
def test_answers_become_errors_of_our_own(
    compute: compute_server.Compute,
    cloud: ComputeCloud,
    stamp: Stamp,
    fault: tuple[int, str],
    kind: type[Exception],
    message: str,
) -> None:
    compute.faults = {2: fault, 3: fault}
    with pytest.raises(kind, match=message):
        cloud.create(SPEC, stamp)


def test_a_zone_that_does_not_answer_is_not_taken_for_empty(
    compute: compute_server.Compute, cloud: ComputeCloud
) -> None:
    compute.silent = {ZONES[1]}
    with pytest.raises(errors.CloudUnavailable, match="us-central1-b"):
        cloud.observe()


def test_nobody_there_is_unavailable() -> None:
    with ComputeCloud(
        "project", AnonymousCredentials(), endpoint="http://127.0.0.1:9/c/"
    ) as cloud:
        with pytest.raises(errors.CloudUnavailable, match="no answer"):
            cloud.observe()
        with pytest.raises(errors.Refused, match="cloud of virtual machines"):
            cloud.create(NodePoolSpec("pool", cluster="c"), Stamp("a", "b", 1))
    with pytest.raises(errors.InvalidSpec, match="name one"):
        ComputeCloud("", AnonymousCredentials())


def test_machines_that_vanish_or_stop_are_noticed(
    cloud: ComputeCloud, reconciler: Reconciler, fake_clock: FakeClock
) -> None:
    reconciler.bring_up([SPEC], 600)
    cloud._api.delete_instance(ZONES[0], "swarm-001")
    found = cloud.find(KEY)
    assert (found.state, found.reason) == (
        State.BROKEN,
        "swarm-001 is STOPPING",
    )
    fake_clock.advance(100)
    assert cloud.find(KEY).reason == "only 2 of 3 are there"
    reconciler.take_down([KEY])


def test_machines_of_others_with_our_names_are_left_alone(
    compute: compute_server.Compute,
    cloud: ComputeCloud,
    reconciler: Reconciler,
    stamp: Stamp,
) -> None:
    cloud.create(SPEC, replace(stamp, owner="bob"))
    elsewhere = replace(SPEC, zones=ZONES[1:])
    with pytest.raises(errors.AlreadyThere, match="not of this run"):
        reconciler.bring_up([elsewhere], 600)
    assert len(compute.names) == 3
    with pytest.raises(errors.NotThere, match="VM other does not exist"):
        cloud.logs(Key(Kind.VM, "other"))
    assert cloud.logs(KEY)["swarm-002"] == "swarm-002 booted\n"


def test_what_a_killed_program_left_is_reaped_while_it_is_deleted_by_half(
    compute: compute_server.Compute,
    cloud: ComputeCloud,
    stamp: Stamp,
    fake_clock: FakeClock,
) -> None:
    cloud.create(SPEC, stamp)
    fake_clock.advance(60)
    cloud._api.delete_instance(ZONES[0], "swarm-000")
    assert reap(cloud, "alice", clock=fake_clock.clock) == []
    assert reap(cloud, "alice", older_than=60, clock=fake_clock.clock) == [KEY]
    assert compute.names == []


def test_tokens_are_renewed_once_and_never_said(
    compute: compute_server.Compute,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    compute.token = RIGHT

    class Renewed(Credentials):
        def refresh(self, _request: object) -> None:
            self.token = RIGHT

    cloud = ComputeCloud("project", Renewed(OLD), endpoint=compute.endpoint)
    with cloud:
        assert cloud.observe() == []
        assert len(compute.calls) == 2
        compute.token = OTHER
        with pytest.raises(errors.Refused, match="401") as failed:
            cloud.observe()
    said = caplog.text + repr(failed.value) + repr(cloud) + repr(vars(cloud))
    assert caplog.records
    assert "s3cret" not in said
    secret = VMDescription(
        "a", ZONES, startup_script="s3cret", metadata={"key": "s3cret"}
    )
    assert "s3cret" not in repr(secret)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "Bad_Name"}, "give lower-case letters"),
        ({"zones": ()}, "give zones such as"),
        ({"zones": ("us-central1",)}, "give zones such as"),
        ({"num_vms": 0}, "give a number from 1 to 1000"),
        ({"num_vms": 1001}, "give a number from 1 to 1000"),
        ({"disk_gb": 1}, "give at least 10"),
        ({"num_gpus": 1}, "give both or none"),
        ({"gpu_type": "nvidia-tesla-t4"}, "give both or none"),
        ({"max_run_seconds": 5}, "give 30 to 10368000"),
        ({"machine_type": "g2-standard-4"}, "g2-standard-4"),
        (
            {"startup_script": "a", "metadata": {"startup-script": "b"}},
            "two start-up scripts",
        ),
    ],
)
def test_wrong_descriptions_are_refused_before_anything_is_sent(
    options: dict, message: str
) -> None:
    with pytest.raises(errors.InvalidSpec, match=message):
        VMDescription(**{"name": "swarm", "zones": ZONES, **options})


def test_machines_of_others_are_not_deleted_with_ours(
    compute: compute_server.Compute,
    cloud: ComputeCloud,
    reach: Callable[[], ComputeCloud],
    reconciler: Reconciler,
    fake_clock: FakeClock,
) -> None:
    """Names are unique in a zone only, and anybody may use such a name."""
    reconciler.bring_up([SPEC], 600)
    with reach() as theirs:
        theirs.find = lambda _key: None  # it looked before ours were there
        deadline = int(fake_clock.clock.today()) + 7200
        elsewhere = replace(SPEC, zones=("europe-west4-a",))
        theirs.create(elsewhere, Stamp("bob", "other", deadline))
    fake_clock.advance(60)
    assert len(compute.names) == 2 * SPEC.num_vms
    with (
        reach() as anybodys,
        pytest.raises(errors.Refused, match="is there 2 times"),
    ):
        anybodys.delete(KEY)
    mine = cloud.instances(KEY)
    assert {zone_of(each) for each in mine} == {ZONES[0]}
    reconciler.take_down([KEY])
    assert len(compute.names) == SPEC.num_vms
    (found,) = cloud.observe()
    assert found.labels["hermes-owner"] == "bob"


def test_who_has_lost_its_program_is_told_from_others_by_its_run(
    compute: compute_server.Compute,
    reach: Callable[[], ComputeCloud],
    reconciler: Reconciler,
    stamp: Stamp,
    fake_clock: FakeClock,
) -> None:
    """Somebody, who created nothing, ends one run and not the other."""
    reconciler.bring_up([SPEC], 600)
    other = replace(stamp, run="other")
    with reach() as theirs:
        theirs.find = lambda _key: None  # it looked before ours were there
        theirs.create(replace(SPEC, zones=("europe-west4-a",)), other)
    fake_clock.advance(60)
    with reach() as again:  # after both were killed
        with pytest.raises(errors.AlreadyThere):
            again.create(SPEC, other)
        assert again.find(KEY).labels["hermes-run"] == "other"
    with reach() as anybodys:
        Reconciler(anybodys, other, clock=fake_clock.clock).take_down([KEY])
        assert {compute.find(name).zone for name in compute.names} == {
            ZONES[0]
        }
        (found,) = anybodys.observe()
        assert Stamp.read(found.labels) == stamp
        assert len(anybodys.logs(found.key)) == SPEC.num_vms


def test_an_order_is_not_taken_for_the_machines_of_others(
    compute: compute_server.Compute,
    cloud: ComputeCloud,
    reach: Callable[[], ComputeCloud],
    stamp: Stamp,
    fake_clock: FakeClock,
) -> None:
    compute.operation_seconds = compute.lag = 100
    cloud.find = lambda _key: None
    with reach() as theirs:
        theirs.create(SPEC, replace(stamp, owner="bob"))
    fake_clock.advance(150)  # theirs are ready, and ours not listed yet
    cloud.create(replace(SPEC, zones=(ZONES[1],)), stamp)
    found = {each.labels["hermes-owner"]: each for each in cloud.observe()}
    assert found["bob"].state is State.READY
    assert found["alice"].state is State.CREATING
    cloud.delete(found["bob"].key)
    fake_clock.advance(90)
    assert [e.labels["hermes-owner"] for e in cloud.observe()] == ["alice"]
    fake_clock.advance(90)
    assert {compute.find(name).zone for name in compute.names} == {ZONES[1]}


@pytest.mark.parametrize(
    ("interface", "address"),
    [
        (
            {"networkIP": "10.0.0.2", "accessConfigs": [{"natIP": "8.8.8.8"}]},
            "8.8.8.8",
        ),
        ({"networkIP": "10.0.0.2", "accessConfigs": [{}]}, "10.0.0.2"),
        ({"ipv6Address": "fd20::1"}, "fd20::1"),
        (
            {
                "ipv6Address": "fd20::1",
                "ipv6AccessConfigs": [{"externalIpv6": "2600::1"}],
            },
            "2600::1",
        ),
        ({}, ""),
    ],
)
def test_machines_are_reached_where_they_can_be(
    interface: dict, address: str
) -> None:
    assert address_of({"networkInterfaces": [interface]}) == address


def test_all_swarms_of_one_name_are_reaped_at_once(
    compute: compute_server.Compute,
    reach: Callable[[], ComputeCloud],
    stamp: Stamp,
    fake_clock: FakeClock,
) -> None:
    expired = (("alice", ZONES[0]), ("bob", ZONES[1]))
    for owner, zone in (*expired, ("carol", "europe-west4-a")):
        hours = 100 if owner == "carol" else 0
        deadline = stamp.deadline + hours * 3600
        with reach() as one:
            one.find = lambda _key: None
            spec = replace(SPEC, zones=(zone,))
            one.create(spec, replace(stamp, owner=owner, deadline=deadline))
    fake_clock.advance(60)
    with reach() as anybodys:
        later = replace(
            fake_clock.clock, today=lambda: fake_clock.clock.today() + 9000
        )
        found = reap(anybodys, clock=later)
        assert sorted(each.whose for each in found) == [
            ("alice", "run"),
            ("bob", "run"),
        ]
        (left,) = anybodys.observe()
    assert left.labels["hermes-owner"] == "carol"
    assert len(compute.names) == SPEC.num_vms


SMALL, LARGE = replace(SPEC, num_vms=2), replace(SPEC, num_vms=6)


def sizes(compute: compute_server.Compute) -> set[str]:
    found = [compute.find(name).properties for name in compute.names]
    return {each["labels"]["hermes-size"] for each in found}


def test_a_swarm_grows_and_shrinks_and_the_others_stay(
    compute: compute_server.Compute,
    start_again: Callable[[], Reconciler],
    fake_clock: FakeClock,
) -> None:
    start_again().bring_up([SPEC], 600)
    created = compute.find("swarm-000").created
    fake_clock.advance(1000)
    start_again().bring_up([LARGE], 600)
    assert compute.names == [f"swarm-00{i}" for i in range(6)]
    assert sizes(compute) == {"6"}
    assert compute.find("swarm-000").created == created
    # All of them end together.
    ends = {round(compute.find(n).gone_at) for n in compute.names}
    assert max(ends) - min(ends) <= 1
    start_again().bring_up([SMALL], 600)
    assert compute.names == ["swarm-000", "swarm-001"]
    assert sizes(compute) == {"2"}
    calls = len(compute.calls)
    start_again().bring_up([SMALL], 600)
    assert set(compute.calls[calls:]) == {"instances.aggregatedList"}


def test_a_swarm_that_cannot_grow_stays_as_it_was(
    compute: compute_server.Compute, start_again: Callable[[], Reconciler]
) -> None:
    start_again().bring_up([SPEC], 600)
    compute.sold_out = {*ZONES}
    with pytest.raises(errors.StockOut, match="stays as it was: none left"):
        start_again().bring_up([LARGE], 600)
    compute.sold_out, compute.quotas = set(), {"us-central1": 16}
    with pytest.raises(errors.QuotaExceeded, match="cpus of us-central1 is"):
        start_again().bring_up([LARGE], 600)
    assert len(compute.names) == 3
    start_again().bring_up([SPEC], 600)  # and nothing is wrong with it
    with pytest.raises(errors.AlreadyThere, match="spot False -> True; cann"):
        start_again().bring_up([replace(LARGE, spot=True)], 600)
    with pytest.raises(errors.AlreadyThere, match="zones us-central1-a -> eu"):
        start_again().bring_up([replace(SPEC, zones=("europe-west4-a",))], 600)
    with pytest.raises(errors.NotThere, match="there is no VM other of run"):
        start_again()._cloud.update(
            replace(SPEC, name="other"), start_again()._stamp
        )
    assert len(compute.names) == 3


@pytest.mark.parametrize(("spec", "later"), [(SPEC, LARGE), (LARGE, SMALL)])
def test_a_change_that_was_cut_off_anywhere_is_done_by_the_next_program(
    compute: compute_server.Compute,
    start_again: Callable[[], Reconciler],
    spec: VMDescription,
    later: VMDescription,
) -> None:
    start_again().bring_up([spec], 600)
    for number in range(2, 100):
        compute.faults = {len(compute.calls) + number: (403, "forbidden")}
        try:
            start_again().bring_up([later], 600)
        except errors.Refused:
            continue
        break
    assert number > 4
    assert len(compute.names) == later.num_vms
    assert sizes(compute) == {str(later.num_vms)}


def test_a_swarm_has_one_change_at_a_time(
    cloud: ComputeCloud, stamp: Stamp, fake_clock: FakeClock
) -> None:
    cloud.create(SMALL, stamp)
    fake_clock.advance(100)
    assert cloud.find(KEY).state is State.READY
    with pytest.raises(errors.CloudUnavailable, match="4 machines of VM swar"):
        cloud.update(LARGE, stamp)
    with pytest.raises(errors.CloudUnavailable, match="swarm is being change"):
        cloud.update(LARGE, stamp)
    fake_clock.advance(100)
    cloud.update(LARGE, stamp)
    assert cloud.find(KEY).state is State.READY


def test_a_swarm_that_is_gone_has_not_started(
    cloud: ComputeCloud, fake_clock: FakeClock
) -> None:
    spec = replace(SPEC, startup_script="make")
    with pytest.raises(errors.ResourceFailed, match="is gone: who deleted it"):
        cloud.check(spec, fake_clock.clock, fake_clock.clock.now())
