"""Bringing up and taking down, on a cloud that fails in every way."""

from __future__ import annotations

import random
import signal
import time

import pytest

from hermes.cloudbreak.errors import (
    AlreadyThere,
    CloudUnavailable,
    InvalidSpec,
    QuotaExceeded,
    Refused,
    ResourceFailed,
    StillThere,
    StockOut,
    WaitTimeout,
)
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reaping import reap
from hermes.cloudbreak.reconciler import Reconciler
from hermes.cloudbreak.specs import (
    Cause,
    ClusterSpec,
    Kind,
    NodePoolSpec,
    State,
    VMSpec,
)
from hermes.cloudbreak.testing import FakeClock, FakeCloud, Fault, Killed
from hermes.cloudbreak.waiting import finish

SPECS = [
    ClusterSpec("main"),
    NodePoolSpec("gpus", cluster="main"),
    NodePoolSpec("cpus", cluster="main"),
    VMSpec("vm"),
]
KEYS = [spec.key for spec in SPECS]
HOUR = 3600.0


class Site:
    """A cloud, its time, and a program that uses it."""

    def __init__(self) -> None:
        self.time = FakeClock()
        self.cloud = FakeCloud(self.time.clock)
        self.told: list = []
        self.program = self.start()

    def start(self, run: str = "run") -> Reconciler:
        today = self.time.clock.today()
        return Reconciler(
            self.cloud,
            Stamp("me", run, int(today + 2 * HOUR)),
            clock=self.time.clock,
            report=self.told.append,
        )

    def reap(self, **options):
        return reap(self.cloud, clock=self.time.clock, **options)


@pytest.fixture
def site() -> Site:
    return Site()


def test_all_is_there_and_then_gone(site: Site) -> None:
    site.program.bring_up(SPECS, HOUR)
    assert set(site.cloud.resources) == set(KEYS)
    assert set(site.program.keys) == set(KEYS)
    site.program.take_down(KEYS, HOUR)
    assert site.cloud.resources == ()
    assert site.program.keys == ()


def test_each_is_asked_for_and_deleted_once(site: Site) -> None:
    site.program.bring_up(SPECS, HOUR)
    site.program.take_down(KEYS, HOUR)
    verbs = [verb for verb, _ in site.cloud.calls if verb != "observe"]
    assert verbs == ["create"] * 4 + ["delete"] * 2  # pools go with theirs


def test_names_are_free_again(site: Site) -> None:
    for _ in range(2):
        site.program.bring_up(SPECS, HOUR)
        site.program.take_down([KEYS[0], KEYS[3]], HOUR)
        assert site.cloud.resources == ()


def test_one_goes_and_the_others_stay(site: Site) -> None:
    site.program.bring_up(SPECS, HOUR)
    site.program.take_down([KEYS[1]], HOUR)
    assert set(site.cloud.resources) == {*KEYS} - {KEYS[1]}


def test_what_is_waited_for_is_told_when_it_changes(site: Site) -> None:
    site.program.bring_up(SPECS[:2], HOUR)
    states = [
        {key.name: state for key, state in told.items()} for told in site.told
    ]
    assert states == [
        {"main": "not there yet", "gpus": "not there yet"},
        {"main": "being created", "gpus": "not there yet"},
        {"gpus": "not there yet"},
        {"gpus": "being created"},
    ]


def test_sixty_four_machines_take_the_rounds_of_one(site: Site) -> None:
    rounds = []
    for number in (1, 64):
        site = Site()
        site.program.bring_up([VMSpec(f"vm-{n}") for n in range(number)], HOUR)
        observed = [verb for verb, _ in site.cloud.calls if verb != "create"]
        assert len(site.cloud.calls) - len(observed) == number
        rounds.append(len(observed))
    assert rounds[0] == rounds[1]


def test_a_name_that_is_taken_is_said(site: Site) -> None:
    site.cloud.add(VMSpec("vm"), {"team": "others"})
    with pytest.raises(AlreadyThere, match=r"exists_ok=True"):
        site.program.bring_up([VMSpec("vm")], HOUR)
    assert site.cloud.resources == (VMSpec("vm").key,)


def test_what_was_adopted_is_left_as_it_was(site: Site) -> None:
    site.cloud.add(ClusterSpec("main"), {"team": "others"})
    adopting = [ClusterSpec("main", exists_ok=True), SPECS[1]]
    site.program.bring_up(adopting, HOUR)
    assert site.program.adopted == {KEYS[0]}
    site.program.take_down(KEYS[:2], HOUR)
    assert site.cloud.resources == (KEYS[0],)


def test_an_error_takes_down_what_was_asked_for(site: Site) -> None:
    site.cloud.troubles["gpus"] = QuotaExceeded("NVIDIA_L4_GPUS: 0 of 4")
    with pytest.raises(QuotaExceeded, match="NVIDIA_L4_GPUS"):
        site.program.bring_up(SPECS, HOUR)
    assert site.cloud.resources == ()


def test_what_breaks_later_takes_all_down(site: Site) -> None:
    site.cloud.troubles["gpus"] = Cause.OTHER, "the driver does not load"
    with pytest.raises(ResourceFailed, match=r"gpus.*does not load"):
        site.program.bring_up(SPECS, HOUR)
    assert site.cloud.resources == ()


def test_an_earlier_call_is_not_touched_by_a_later_error(site: Site) -> None:
    site.program.bring_up(SPECS[:1], HOUR)
    site.cloud.troubles["gpus"] = Cause.OTHER, "no"
    with pytest.raises(ResourceFailed):
        site.program.bring_up(SPECS[1:3], HOUR)
    assert site.cloud.resources == (KEYS[0],)


def test_a_time_limit_is_kept_and_says_what_lacks(site: Site) -> None:
    with pytest.raises(WaitTimeout, match=r"100 s.*main \(being created\)"):
        site.program.bring_up(SPECS[:1], 100)
    assert site.cloud.resources == ()


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_stock_out_is_tried_elsewhere(site: Site, when: str) -> None:
    trouble = (
        StockOut("no L4 left")
        if when == "at once"
        else (Cause.STOCK_OUT, "no L4 left")
    )
    for zone in ("a", "b"):
        site.cloud.troubles["vm", zone] = trouble
    site.program.bring_up([VMSpec("vm", ("a", "b", "c"))], HOUR)
    assert site.cloud.resources == (VMSpec("vm").key,)
    site.program.take_down([VMSpec("vm").key], HOUR)
    assert site.cloud.resources == ()


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_stock_out_everywhere_is_an_error(site: Site, when: str) -> None:
    at_once = when == "at once"
    site.cloud.troubles["vm"] = (
        StockOut("no L4 left") if at_once else (Cause.STOCK_OUT, "no L4 left")
    )
    with pytest.raises(
        StockOut if at_once else ResourceFailed, match="no L4 left"
    ):
        site.program.bring_up([VMSpec("vm", ("a", "b"))], HOUR)
    assert site.cloud.resources == ()


def test_what_somebody_deletes_meanwhile_is_said(site: Site) -> None:
    site.program.bring_up([VMSpec("vm")], HOUR)
    site.cloud.delete(VMSpec("vm").key)
    site.time.advance(HOUR)
    with pytest.raises(ResourceFailed, match="somebody has deleted it"):
        site.program.bring_up([VMSpec("vm")], HOUR)


def up_and_down(site: Site) -> int:
    """Count the calls from beginning to end."""
    site.program.bring_up(SPECS, HOUR)
    site.program.take_down(KEYS, HOUR)
    return len(site.cloud.calls)


NUM_CALLS = up_and_down(Site())


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("number", range(1, NUM_CALLS + 1))
def test_a_program_killed_at_any_call_leaves_nothing_to_pay(
    site: Site, number: int, done: bool
) -> None:
    site.cloud.faults[number] = Fault(Killed(), done)
    with pytest.raises(Killed):
        up_and_down(site)
    site.cloud.revive()
    assert site.reap() == []  # their time is not over yet
    site.time.advance(2 * HOUR)
    left = set(site.cloud.resources)
    assert set(site.reap(dry_run=True)) == left
    assert set(site.cloud.resources) == left
    site.reap(timeout=HOUR)
    assert site.cloud.resources == ()


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("number", range(1, NUM_CALLS + 1))
def test_no_answer_at_any_call_is_survived(
    site: Site, number: int, done: bool
) -> None:
    site.cloud.faults[number] = Fault(CloudUnavailable("503"), done)
    site.program.bring_up(SPECS, HOUR)
    assert set(site.cloud.resources) == set(KEYS)
    site.program.take_down(KEYS, HOUR)
    assert site.cloud.resources == ()


@pytest.mark.parametrize("seed", range(50))
def test_bursts_of_no_answers_are_survived(site: Site, seed: int) -> None:
    dice = random.Random(seed)
    site.cloud.lag = dice.choice([0.0, 20.0])
    site.cloud.faults = {
        number: Fault(CloudUnavailable("429"), dice.random() < 0.5)
        for number in range(1, 200)
        if dice.random() < 0.5
    }
    site.program.bring_up(SPECS, 3 * HOUR)
    assert set(site.cloud.resources) == set(KEYS)
    site.program.take_down(KEYS, 3 * HOUR)
    assert site.cloud.resources == ()


@pytest.mark.parametrize("number", range(1, NUM_CALLS // 2))
def test_ctrl_c_at_any_call_takes_all_down(site: Site, number: int) -> None:
    site.cloud.faults[number] = Fault(KeyboardInterrupt(), done=True)
    with pytest.raises(KeyboardInterrupt):
        site.program.bring_up(SPECS, HOUR)
    assert site.cloud.resources == ()


@pytest.mark.parametrize("number", range(1, 9))
def test_ctrl_c_while_all_is_taken_down_is_no_end(
    site: Site, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    site.program.bring_up(SPECS, HOUR)
    again = site.start()
    again._prunes = False  # and knows only what it has asked for
    again.bring_up(SPECS[:2], HOUR)
    at = len(site.cloud.calls) + number
    site.cloud.faults[at] = Fault(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        finish(again.take_everything_down)
    assert site.cloud.resources == ()
    assert "Ctrl-C again leaves it" in caplog.text


def test_a_second_ctrl_c_is_the_end(site: Site) -> None:
    site.program.bring_up(SPECS, HOUR)
    calls = len(site.cloud.calls)
    for number in (1, 2):
        site.cloud.faults[calls + number] = Fault(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        finish(site.program.take_everything_down)
    assert set(site.cloud.resources) == set(KEYS)


def test_what_is_asked_for_again_stays_when_something_else_goes(
    site: Site,
) -> None:
    site.program.bring_up(SPECS, HOUR)
    calls = len(site.cloud.calls)
    site.cloud.faults[calls + 1] = Fault(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        site.program.take_down([KEYS[2]])
    site.program.bring_up([SPECS[2]], HOUR)
    site.program.take_down([KEYS[3]])
    assert set(site.cloud.resources) == {*KEYS[:3]}


def test_what_appears_late_is_deleted_too(site: Site) -> None:
    site.cloud.lag = 45.0  # until it is listed
    site.cloud.faults = {
        n: Fault(CloudUnavailable("no answer"), done=True)
        for n in range(2, 300)
        if n % 2 == 0
    }
    with pytest.raises(WaitTimeout):
        site.program.bring_up([VMSpec("vm")], 20)
    assert site.cloud.resources == ()


def test_what_cannot_be_deleted_is_said(site: Site) -> None:
    site.program.bring_up([VMSpec("vm")], HOUR)
    begin = len(site.cloud.calls)
    site.cloud.faults = {
        n: Fault(Refused("403: no permission"))
        for n in range(begin + 2, 10_000, 2)
    }
    with pytest.raises(StillThere, match=r"vm \(ready.*403: no perm.*reap"):
        site.program.take_down([VMSpec("vm").key], 600)
    site.cloud.faults.clear()
    site.program.take_down([VMSpec("vm").key], 600)
    assert site.cloud.resources == ()


def test_what_was_adopted_is_not_moved(site: Site) -> None:
    site.cloud.troubles["vm"] = Cause.STOCK_OUT, "none left"
    site.cloud.add(VMSpec("vm"), {"team": "others"})
    site.time.advance(HOUR)
    spec = VMSpec("vm", ("a", "b"), exists_ok=True)
    with pytest.raises(ResourceFailed, match="there before us"):
        site.program.bring_up([spec], HOUR)
    assert site.cloud.resources == (spec.key,)
    assert "delete" not in {verb for verb, _ in site.cloud.calls}


@pytest.mark.parametrize(
    "error", [QuotaExceeded("used up"), StockOut("none left"), Refused("no")]
)
def test_a_refusal_does_not_forget_a_lost_answer(site: Site, error) -> None:
    site.cloud.lag = 40.0
    create = site.cloud.create
    answers = iter([CloudUnavailable("lost"), error])

    def answering(spec, stamp):
        if (answer := next(answers, error)) is not error:
            create(spec, stamp)
        raise answer

    site.cloud.create = answering
    with pytest.raises(type(error)):
        site.program.bring_up([VMSpec("vm")], HOUR)
    assert site.cloud.resources == ()


def test_what_cannot_be_found_yet_is_not_taken_for_anothers(
    site: Site,
) -> None:
    site.cloud.faults[2] = Fault(CloudUnavailable("lost"), done=True)
    site.cloud.lag = 5.0
    find, asked = site.cloud.find, []

    def finding(key):
        asked.append(key)
        return find(key) if len(asked) > 1 else None

    site.cloud.find = finding
    site.program.bring_up([VMSpec("vm")], HOUR)
    site.program.take_down([VMSpec("vm").key], HOUR)
    assert site.cloud.resources == ()


def test_a_call_without_an_answer_counts_from_its_end(site: Site) -> None:
    site.cloud.lag = 20.0
    create = site.cloud.create

    def slow(spec, stamp):
        site.time.advance(90)
        if not site.cloud.resources:
            create(spec, stamp)
        raise CloudUnavailable("timed out")

    site.cloud.create = slow
    with pytest.raises(WaitTimeout):
        site.program.bring_up([VMSpec("vm")], 30)
    assert site.cloud.resources == ()


@pytest.mark.parametrize(
    "error", [Refused("token expired"), RuntimeError("no JSON")]
)
@pytest.mark.parametrize("later", [1, 2, 3])
def test_one_error_does_not_end_taking_down(
    site: Site, error: Exception, later: int
) -> None:
    site.program.bring_up([VMSpec("a"), VMSpec("b")], HOUR)
    site.cloud.faults[len(site.cloud.calls) + later] = Fault(error)
    site.program.take_down([VMSpec("a").key, VMSpec("b").key], HOUR)
    assert site.cloud.resources == ()


def test_a_name_that_became_free_is_not_reaped_again(site: Site) -> None:
    site.program.bring_up([VMSpec("vm")], HOUR)
    site.time.advance(2 * HOUR)
    observe, new = site.cloud.observe, []

    def observing(owner=None):
        if not new and not site.cloud.resources:
            today = int(site.time.clock.today() + HOUR)
            new.append(Stamp("me", "new", today))
            site.cloud.add(VMSpec("vm"), new[0].labels)
        return observe(owner)

    site.cloud.observe = observing
    assert site.reap() == [VMSpec("vm").key]
    assert new
    assert site.cloud.resources == (VMSpec("vm").key,)


def test_what_was_not_gone_in_time_may_be_asked_for_again(site: Site) -> None:
    site.program.bring_up([VMSpec("vm")], HOUR)
    with pytest.raises(StillThere):
        site.program.take_down([VMSpec("vm").key], 1)
    site.time.advance(HOUR)
    site.program.bring_up([VMSpec("vm")], HOUR)
    assert site.cloud.resources == (VMSpec("vm").key,)


def test_ctrl_c_among_many_calls_leaves_nothing(site: Site) -> None:
    create = site.cloud.create

    def slow(spec, stamp):
        if spec.key.name == "vm-3":
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.02)
        create(spec, stamp)

    site.cloud.create = slow
    with pytest.raises(KeyboardInterrupt):
        site.program.bring_up([VMSpec(f"vm-{n}") for n in range(64)], HOUR)
    assert site.cloud.resources == ()
    assert site.program.keys == ()


def test_both_errors_are_told(site: Site) -> None:
    site.cloud.troubles["vm"] = Cause.OTHER, "broken"
    delete = site.cloud.delete

    def forbidding(_key):
        raise Refused("403")

    site.cloud.delete = forbidding
    with pytest.raises(ResourceFailed, match="broken") as caught:
        site.program.bring_up([VMSpec("vm")], 600)
    (note,) = caught.value.__notes__
    assert "403" in note
    site.cloud.delete = delete
    site.program.take_down([VMSpec("vm").key], 600)
    assert site.cloud.resources == ()


def test_a_cluster_that_cannot_be_deleted_keeps_no_pool(site: Site) -> None:
    site.program.bring_up(SPECS, HOUR)
    delete = site.cloud.delete

    def protecting(key):
        if key.kind is Kind.CLUSTER:
            raise Refused("deletion protection is on")
        delete(key)

    site.cloud.delete = protecting
    with pytest.raises(StillThere, match="deletion protection"):
        site.program.take_down(KEYS, HOUR)
    assert site.cloud.resources == (KEYS[0],)


def test_a_list_that_lags_skips_no_zone(site: Site) -> None:
    site.cloud.troubles["vm", "a"] = Cause.STOCK_OUT, "none left"
    observe, old = site.cloud.observe, []

    def lagging(owner=None):
        old.append(observe(owner))
        return old[max(0, len(old) - 4)]

    site.cloud.observe = lagging
    site.program.bring_up([VMSpec("vm", ("a", "b"))], HOUR)
    site.cloud.observe = observe
    site.program.take_down([VMSpec("vm").key], HOUR)
    assert site.cloud.resources == ()


@pytest.mark.parametrize("error", [QuotaExceeded("0 left"), None])
def test_what_the_run_has_already_outlives_an_error(site: Site, error) -> None:
    """As of a file that is brought up again with one pool more."""
    site.program.bring_up(SPECS[:2], HOUR)
    again = site.start()
    if error is None:  # not in time
        with pytest.raises(WaitTimeout):
            again.bring_up(SPECS[:3], 1)
    else:
        site.cloud.troubles["cpus"] = error
        with pytest.raises(QuotaExceeded):
            again.bring_up(SPECS[:3], HOUR)
    assert set(site.cloud.resources) == set(KEYS[:2])
    again.take_down(again.keys)
    assert site.cloud.resources == ()


def test_what_was_ready_is_not_moved_by_a_later_call(site: Site) -> None:
    zones = [VMSpec("old", ("a", "b")), VMSpec("new")]
    site.program.bring_up(zones[:1], HOUR)
    site.cloud._resources[zones[0].key].trouble = Cause.STOCK_OUT, "gone"
    site.program.bring_up(zones[1:], HOUR)
    assert "delete" not in {verb for verb, _ in site.cloud.calls}
    with pytest.raises(ResourceFailed, match="gone; it was ready before"):
        site.program.bring_up(zones[:1], HOUR)
    assert len(site.cloud.resources) == 2


def test_who_may_not_ask_is_told_at_once(site: Site) -> None:
    site.cloud.faults = {n: Fault(Refused("403")) for n in range(1, 1000)}
    with pytest.raises(Refused, match="403"):
        site.program.bring_up(SPECS, HOUR)
    site.program.take_down(site.program.keys)
    assert len(site.cloud.calls) == 1


def test_two_programs_do_not_touch_each_other(site: Site) -> None:
    other = site.start("other")
    site.program.bring_up([VMSpec("mine")], HOUR)
    other.bring_up([VMSpec("theirs")], HOUR)
    site.program.take_down([VMSpec("mine").key], HOUR)
    assert site.cloud.resources == (VMSpec("theirs").key,)


def test_a_reaper_touches_nothing_but_what_has_expired(site: Site) -> None:
    site.cloud.add(VMSpec("stranger"), {"team": "others"})
    site.cloud.add(VMSpec("unlabelled"))
    site.program.bring_up([VMSpec("old")], HOUR)
    site.time.advance(1.5 * HOUR)
    site.start("new").bring_up([VMSpec("new")], HOUR)
    site.time.advance(HOUR)
    assert site.reap(owner="somebody-else") == []
    assert [key.name for key in site.reap()] == ["old"]
    names = {key.name for key in site.cloud.resources}
    assert names == {"stranger", "unlabelled", "new"}
    assert [k.name for k in site.reap(older_than=0.0)] == ["new"]
    names = {key.name for key in site.cloud.resources}
    assert names == {"stranger", "unlabelled"}


def test_nothing_is_created_without_a_stamp(site: Site) -> None:
    nobody = Reconciler(site.cloud, clock=site.time.clock)
    with pytest.raises(InvalidSpec, match="without a stamp"):
        nobody.bring_up([VMSpec("vm")], HOUR)
    assert site.cloud.resources == ()


def test_a_slow_cloud_is_not_asked_too_often(site: Site) -> None:
    site.cloud = FakeCloud(site.time.clock, {Kind.CLUSTER: HOUR})
    site.start().bring_up(SPECS[:1], 2 * HOUR)
    assert site.time.num_sleeps < HOUR / 15 + 20


def grown(num_nodes: int, **options) -> list:
    return [
        SPECS[0],
        NodePoolSpec("gpus", (), False, "main", num_nodes, **options),
    ]


def test_what_is_there_becomes_what_is_wanted(site: Site) -> None:
    site.program.bring_up(grown(1), HOUR)
    again = site.start()
    again.bring_up(grown(4), HOUR)
    assert ("update", KEYS[1]) in site.cloud.calls
    (found,) = [o for o in site.cloud.observe() if o.key == KEYS[1]]
    assert found.settings["num_nodes"] == 4
    assert found.state is State.READY  # it is waited for
    told = [each.get(KEYS[1]) for each in site.told]
    assert told[-2:] == ["to be changed", "being created"]


def test_what_cannot_be_changed_is_refused_before_anything_is_touched(
    site: Site,
) -> None:
    site.program.bring_up(grown(1), HOUR)
    site.cloud.calls.clear()
    wanted = [VMSpec("new"), *grown(4, machine_type="big")]
    with pytest.raises(AlreadyThere, match='machine_type "" -> big; cannot'):
        site.start().bring_up(wanted, HOUR)
    assert {verb for verb, _ in site.cloud.calls} == {"observe"}
    assert len(site.cloud.resources) == 2


def test_a_change_that_fails_deletes_nothing(site: Site) -> None:
    site.program.bring_up(grown(1), HOUR)
    calls = len(site.cloud.calls)
    site.cloud.faults[calls + 2] = Fault(QuotaExceeded("0 left of 8"))
    with pytest.raises(QuotaExceeded, match="0 left"):
        site.start().bring_up(grown(4), HOUR)
    assert set(site.cloud.resources) == set(KEYS[:2])
    site.cloud.faults[len(site.cloud.calls) + 2] = Fault(CloudUnavailable("?"))
    site.start().bring_up(grown(4), HOUR)
    with pytest.raises(InvalidSpec, match="without a stamp"):
        Reconciler(
            site.cloud, is_ours=lambda _: True, clock=site.time.clock
        ).bring_up(grown(2), HOUR)


def test_what_another_call_has_changed_is_left_so(site: Site) -> None:
    site.program.bring_up(grown(1), HOUR)
    stamp = site.program._stamp
    site.cloud.update(grown(3)[1], stamp)
    site.program.bring_up([VMSpec("vm")], HOUR)
    (found,) = [o for o in site.cloud.observe() if o.key == KEYS[1]]
    assert found.settings["num_nodes"] == 3


def test_what_a_check_refuses_is_taken_back(site: Site) -> None:
    site.program.bring_up(grown(1), HOUR)

    def check(deadline: float) -> None:
        assert deadline <= site.time.clock.now() + HOUR
        raise ResourceFailed("does not infer")

    with pytest.raises(ResourceFailed, match="does not infer"):
        site.program.bring_up([*grown(1), VMSpec("vm")], HOUR, check)
    assert set(site.cloud.resources) == set(KEYS[:2])


def test_what_is_not_asked_for_yet_stays_until_everything_goes(
    site: Site,
) -> None:
    """Programs ask for one thing after the other, files for all at once."""
    site.program.bring_up([*grown(1), VMSpec("vm"), VMSpec("other")], HOUR)
    again = Reconciler(
        site.cloud, site.program._stamp, clock=site.time.clock, prunes=False
    )
    again.bring_up([SPECS[0]], HOUR)
    again.bring_up([VMSpec("vm")], HOUR)
    assert len(site.cloud.resources) == 4
    again.take_down([VMSpec("vm").key])
    assert len(site.cloud.resources) == 3
    again.take_down([SPECS[0].key])  # and what is part of it
    assert site.cloud.resources == (VMSpec("other").key,)
    again.bring_up([VMSpec("vm")], HOUR)
    again.take_everything_down()
    assert site.cloud.resources == ()


def test_who_may_not_delete_is_told_so_after_a_minute(site: Site) -> None:
    site.program.bring_up([VMSpec("vm")], HOUR)
    calls, begun = len(site.cloud.calls), site.time.clock.now()
    refusal = Refused("403: no right to vms.delete")
    site.cloud.faults = dict.fromkeys(
        range(calls + 2, calls + 500, 2), Fault(refusal)
    )
    with pytest.raises(StillThere, match=r"VM vm .ready; 403: no right"):
        site.program.take_down([VMSpec("vm").key], HOUR)
    assert site.time.clock.now() - begun < 120
    # It is told at once, not at the end only.
    assert site.told[-1] == {VMSpec("vm").key: f"ready; {refusal}"}
    site.cloud.faults.clear()
    site.program.take_down([VMSpec("vm").key], HOUR)
    assert site.cloud.resources == ()


def test_who_may_not_look_is_told_so_after_a_minute(site: Site) -> None:
    site.program.bring_up([VMSpec("vm")], HOUR)
    again, begun = site.start(), site.time.clock.now()
    refusal = Fault(Refused("403: no right to vms.list"))
    site.cloud.faults = dict.fromkeys(range(1, 500), refusal)
    with pytest.raises(StillThere, match="perhaps there; 403: no right to v"):
        again.take_down([VMSpec("vm").key], HOUR)
    assert site.time.clock.now() - begun < 120


def test_what_was_refused_first_can_be_adopted_then(site: Site) -> None:
    site.program.bring_up([VMSpec("vm")], HOUR)
    other = site.start("other")
    with pytest.raises(AlreadyThere, match="not of this run"):
        other.bring_up([VMSpec("vm")], HOUR)
    other.bring_up([VMSpec("vm", exists_ok=True)], HOUR)
    assert other.adopted == {VMSpec("vm").key}
