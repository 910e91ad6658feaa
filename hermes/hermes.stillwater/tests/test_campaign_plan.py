from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hermes.stillwater._campaign._plan import Plan, rank

SERVERS = "one:8001", "two:8001", "three:8001"
KEYS = st.lists(st.text(min_size=1), unique=True, max_size=30)


@given(
    keys=KEYS,
    places=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    limit=st.integers(1, 8),
    max_attempts=st.integers(1, 4),
    data=st.data(),
)
def test_plans_keep_to_slots_and_do_every_unit_once(
    keys, places, limit, max_attempts, data
):
    servers = SERVERS[: len(places)]
    suspects = data.draw(st.sets(st.sampled_from(keys))) if keys else set()
    plan = Plan(keys, max_attempts, {}, suspects, servers, places)
    flying, done, failed, attempts = [], Counter(), Counter(), Counter()
    while plan.num_waiting or flying:
        orders = plan.take(limit)
        flying += orders
        assert flying  # it never comes to a stand
        assert plan.num_flying == len(flying) <= limit
        on = Counter(order.server for order in flying)
        assert all(on[n] <= places[n] for n in on)
        if {order.key for order in flying} & suspects:
            assert len(flying) == 1
        order = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
        attempts[order.key] += 1
        assert order.attempt == attempts[order.key]
        ranked = rank(servers, order.key)
        assert order.server == ranked[(order.attempt - 1) % len(ranked)]
        suspects -= {order.key}
        if data.draw(st.booleans()):
            plan.succeed(order)
            done[order.key] += 1
        else:
            is_suspect = data.draw(st.booleans())
            if plan.fail(order, is_suspect=is_suspect):
                suspects |= {order.key} if is_suspect else set()
            else:
                failed[order.key] += 1
    assert sorted([*done.elements(), *failed.elements()]) == sorted(keys)
    assert all(attempts[key] == max_attempts for key in failed)
    assert plan.take(limit) == []


def test_units_that_failed_wait_behind_the_others():
    plan = Plan(["poison", "a", "b"], max_attempts=3)
    (order,) = plan.take(1)
    assert order.key == "poison"
    plan.fail(order)
    assert [o.key for o in plan.take(3)] == ["a", "b", "poison"]


def test_attempts_of_earlier_runs_count():
    plan = Plan(["poison"], max_attempts=3, attempts={"poison": 2})
    (order,) = plan.take(1)
    assert order.attempt == 3
    assert not plan.fail(order)


@given(st.text(), st.permutations(SERVERS))
def test_units_stay_where_they_were_when_servers_come_and_go(key, servers):
    first = servers[rank(servers, key)[0]]
    assert first == SERVERS[rank(SERVERS, key)[0]]
    fewer = [server for server in servers if server != servers[-1]]
    if first != servers[-1]:
        assert fewer[rank(fewer, key)[0]] == first


def test_units_spread_over_servers():
    used = Counter(rank(SERVERS, str(n))[0] for n in range(3000))
    assert min(used.values()) > 900
