"""Decisions, without a cloud."""

from __future__ import annotations

from hermes.cloudbreak.reconcile import (
    SETTLE_SECONDS,
    Create,
    Delete,
    Fail,
    Move,
    Request,
    Update,
    diff,
    leftovers,
    unready,
)
from hermes.cloudbreak.specs import (
    Cause,
    ClusterSpec,
    NodePoolSpec,
    Observed,
    State,
    VMSpec,
)

CLUSTER, POOL = ClusterSpec("main"), NodePoolSpec("pool", cluster="main")
VM = VMSpec("vm", ("a", "b"))
READY, CREATING, DELETING, BROKEN = (
    State.READY,
    State.CREATING,
    State.DELETING,
    State.BROKEN,
)


def plan(*specs):
    return {spec.key: spec for spec in specs}


def test_what_is_wanted_and_unknown_is_created() -> None:
    assert diff(plan(CLUSTER, VM), {}, []) == [Create(CLUSTER), Create(VM)]


def test_a_pool_waits_for_its_cluster() -> None:
    both = plan(CLUSTER, POOL)
    asked = {CLUSTER.key: Request(0, answered=True)}
    assert diff(both, asked, []) == []
    there = Observed(CLUSTER.key, CREATING)
    assert diff(both, asked, [there]) == []
    there = Observed(CLUSTER.key, READY)
    assert diff(both, asked, [there]) == [Create(POOL)]


def test_what_was_asked_for_is_asked_again_only_without_an_answer() -> None:
    assert diff(plan(VM), {VM.key: Request(0, answered=True)}, []) == []
    assert diff(plan(VM), {VM.key: Request(0)}, []) == [Create(VM)]


def test_what_was_there_and_is_gone_is_not_created_again() -> None:
    (action,) = diff(plan(VM), {VM.key: Request(0, True, seen=True)}, [])
    assert action == Fail(VM.key, "it was there, and somebody has deleted it")


def test_what_is_not_wanted_is_deleted_once() -> None:
    assert diff({}, {}, [Observed(VM.key, READY)]) == [Delete(VM.key)]
    assert diff({}, {}, [Observed(VM.key, CREATING)]) == [Delete(VM.key)]
    assert diff({}, {}, [Observed(VM.key, BROKEN)]) == [Delete(VM.key)]
    assert diff({}, {}, [Observed(VM.key, DELETING)]) == []


def test_pools_go_with_their_cluster() -> None:
    there = [Observed(POOL.key, READY), Observed(CLUSTER.key, READY)]
    assert diff({}, {}, there) == [Delete(CLUSTER.key)]
    assert diff(plan(CLUSTER), {}, there) == [Delete(POOL.key)]


def test_pools_do_not_wait_for_a_cluster_that_cannot_be_deleted() -> None:
    there = [Observed(POOL.key, READY), Observed(CLUSTER.key, READY)]
    assert diff({}, {}, there, stuck={CLUSTER.key}) == [
        Delete(POOL.key),
        Delete(CLUSTER.key),
    ]


OUT = Observed(VM.key, BROKEN, cause=Cause.STOCK_OUT, reason="none left")
ASKED = {VM.key: Request(0, answered=True, seen=True)}


def test_a_stock_out_moves_on_and_all_else_fails() -> None:
    further = VMSpec("vm", ("b",))
    assert diff(plan(VM), ASKED, [OUT]) == [Move(VM.key, further)]
    assert diff(plan(further), ASKED, [OUT]) == [Fail(VM.key, "none left")]
    quota = Observed(VM.key, BROKEN, cause=Cause.QUOTA)
    assert diff(plan(VM), ASKED, [quota]) == [Fail(VM.key, "quota")]


def test_what_was_moved_and_is_still_listed_is_not_moved_twice() -> None:
    assert diff(plan(VM), {}, [OUT]) == [Delete(VM.key)]


def test_what_was_there_before_us_is_never_moved() -> None:
    (action,) = diff(plan(VM), {}, [OUT], adopted={VM.key})
    assert action == Fail(VM.key, "none left; it was there before us")


def test_all_that_is_not_ready_is_told() -> None:
    there = [Observed(CLUSTER.key, READY), Observed(VM.key, CREATING)]
    assert unready(plan(CLUSTER, POOL, VM), there) == {
        POOL.key: "not there yet",
        VM.key: "being created",
    }
    broken = Observed(VM.key, BROKEN, reason="no driver")
    assert unready(plan(VM), [broken]) == {VM.key: "broken no driver"}


def test_what_may_yet_appear_is_waited_for() -> None:
    asked = {VM.key: Request(0)}
    assert VM.key in leftovers({}, asked, [], SETTLE_SECONDS - 1)
    assert leftovers({}, asked, [], SETTLE_SECONDS) == {}
    assert leftovers(plan(VM), asked, [], 0) == {}
    assert leftovers({}, {VM.key: Request(0, seen=True)}, [], 0) == {}


def test_what_is_there_and_not_wanted_is_left_over() -> None:
    there = [Observed(VM.key, DELETING), Observed(CLUSTER.key, READY)]
    assert leftovers(plan(CLUSTER), {}, there, 0) == {VM.key: "being deleted"}


def test_what_is_there_in_part_is_asked_for_again_if_it_is_ours() -> None:
    part = Observed(VM.key, State.PARTIAL)
    asked = {VM.key: Request(0, answered=True, seen=True)}
    assert diff(plan(VM), asked, [part]) == [Create(VM)]
    assert diff(plan(VM), {}, [part], adopted={VM.key}) == []
    assert diff({}, asked, [part]) == [Delete(VM.key)]
    assert unready(plan(VM), [part]) == {VM.key: "there in part"}


FOUR, EIGHT = (
    NodePoolSpec("pool", cluster="main", num_nodes=n) for n in (4, 8)
)
BIG = NodePoolSpec("pool", cluster="main", num_nodes=4, machine_type="big")


def of(spec, state=READY, **options):
    return Observed(spec.key, state, settings=spec.settings, **options)


def test_what_can_be_changed_is_changed_once() -> None:
    (action,) = diff(plan(EIGHT), {}, [of(FOUR)])
    assert action == Update(EIGHT)
    assert diff(plan(FOUR), {}, [of(FOUR)]) == []
    asked = {EIGHT.key: Request(0, True, True, True, updated=EIGHT)}
    assert diff(plan(EIGHT), asked, [of(FOUR)]) == []
    assert diff(plan(EIGHT), {}, [of(FOUR, DELETING)]) == []
    # What nobody knows is taken for right.
    assert diff(plan(EIGHT), {}, [Observed(FOUR.key, READY)]) == []


def test_what_cannot_be_changed_is_said_with_its_name_and_the_cure() -> None:
    (action,) = diff(plan(BIG), {}, [of(EIGHT)])
    assert action == Fail(
        BIG.key,
        'is there with other settings: machine_type "" -> big; cannot be '
        "changed while it is there: delete it first",
        is_conflict=True,
    )
    (action,) = diff(plan(VM), {}, [of(VM, where="c")])
    assert "zones c -> a or b" in action.reason
    assert diff(plan(VM), {}, [of(VM, where="b")]) == []


def test_what_was_there_before_us_is_not_changed() -> None:
    (action,) = diff(plan(EIGHT), {}, [of(FOUR)], adopted={FOUR.key})
    assert action.is_conflict
    assert "num_nodes 4 -> 8; it is not ours" in action.reason


def test_what_is_broken_is_changed_before_it_is_given_up() -> None:
    broken = of(FOUR, BROKEN, reason="too few")
    assert diff(plan(EIGHT), {}, [broken]) == [Update(EIGHT)]
    asked = {EIGHT.key: Request(0, True, True, True, updated=EIGHT)}
    (action,) = diff(plan(EIGHT), asked, [broken])
    assert action == Fail(FOUR.key, "too few; it was ready before")
