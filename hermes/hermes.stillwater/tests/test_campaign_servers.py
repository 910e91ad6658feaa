"""Servers of workers' own, without servers: anything that can be entered."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from hermes.stillwater._campaign._servers import PerWorker, borrow, choose
from hermes.stillwater.campaign import Campaign
from hermes.stillwater.errors import InvalidCampaign, NoServerFree


class Servers:
    """Starts servers, and counts them."""

    def __init__(self):
        self.started = 0
        self.stopped = threading.Semaphore(0)
        self.running = set()

    @contextmanager
    def __call__(self):
        number = self.started = self.started + 1
        self.running.add(number)
        try:
            yield SimpleNamespace(endpoint=f"host:{number}")
        finally:
            self.running.remove(number)
            self.stopped.release()


@pytest.fixture
def servers():
    return Servers()


@pytest.fixture
def make(servers):
    def make(slots=2, sequences=1, patience=60.0, idle=60.0):
        token = str(id(servers))
        return PerWorker(servers, slots, sequences, token, patience, idle)

    return make


def test_a_worker_starts_one_server_for_all_its_units(make, servers):
    maker = make()
    for _ in range(3):
        with borrow(maker) as endpoint:
            assert endpoint == "host:1"
    assert servers.running == {1}


def test_a_server_that_is_idle_is_stopped_and_started_again(make, servers):
    maker = make(idle=0.01)
    with borrow(maker):
        assert servers.running == {1}
    assert servers.stopped.acquire(timeout=10)
    with borrow(maker) as endpoint:
        assert endpoint == "host:2"


def test_after_a_unit_failed_the_next_one_gets_a_new_server(make, servers):
    maker = make()
    with borrow(maker):
        with pytest.raises(ValueError, match="bad"), borrow(maker):
            raise ValueError("bad")
        assert servers.running == {1}  # somebody is still on it
        with borrow(maker) as endpoint:
            assert endpoint == "host:2"
    assert servers.running == {2}


def test_units_of_one_worker_keep_to_its_slots(make):
    maker = make(slots=lambda _: 5, sequences=2)
    count = threading.Semaphore(2)

    def unit(_):
        with borrow(maker):
            assert count.acquire(blocking=False)
            threading.Event().wait(0.01)
            count.release()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(unit, range(30)))


def test_a_slot_that_is_never_free_is_an_error(make):
    maker = make(slots=1, patience=0.01)
    with (
        borrow(maker),
        pytest.raises(NoServerFree, match="as many threads"),
        borrow(maker),
    ):
        pass


def test_a_server_that_cannot_be_entered_is_refused():
    maker = PerWorker(list, 1, 1, "token of a list")
    with pytest.raises(InvalidCampaign, match="`with` cannot enter"):
        borrow(maker).__enter__()


def test_a_server_with_too_few_slots_is_stopped(make, servers):
    with pytest.raises(InvalidCampaign, match="has 1 slots"):
        borrow(make(slots=lambda _: 1, sequences=2)).__enter__()
    assert servers.running == set()


def test_endpoints_are_given_as_they_were_given():
    endpoint = SimpleNamespace(grpc="b:1")
    chosen = choose(
        ["a:1", endpoint], lambda e: len(e) if e == "a:1" else 4, 2, ""
    )
    assert chosen.names == ("a:1", "b:1")
    assert chosen.given == ("a:1", endpoint)
    with pytest.raises(InvalidCampaign, match="lower sequences_per_unit"):
        choose("a:1", lambda _: 1, 2, "").places()
    assert choose("a:1", lambda _: 5, 2, "").places() == (2,)


def test_units_are_told_their_endpoint(tmp_path):
    def run(_unit, output, endpoint):
        output.write_text(endpoint)

    campaign = Campaign(
        list("abcdefgh"),
        run,
        tmp_path / "manifest.jsonl",
        servers=["a:1", "b:1"],
        slots=1,
    )
    with ThreadPoolExecutor(3) as threads:
        assert campaign.run(threads).done == 8
    told = {path.read_text() for path in campaign.outputs().values()}
    assert told == {"a:1", "b:1"}
