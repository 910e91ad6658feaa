"""When a server is polled, and when it counts as silent."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue

import pytest

from hermes.aeriel.monitor._fetch import FetchFailed
from hermes.aeriel.monitor._metrics import Reading
from hermes.aeriel.monitor._polling import Answer, Pace, Poller
from hermes.aeriel.monitor._targets import Target

TARGET = Target("here", "a:1", "a:2")
# So long that a test would not live to see it.
NEVER = 1000.0


class Server:
    """Answers with what is next, and then with the last of it again."""

    def __init__(self, *answers: int | str) -> None:
        self.answers = list(answers)
        self.times: list[float] = []

    def __call__(self, address: str, timeout: float) -> Reading:
        assert address == TARGET.metrics
        assert timeout > 0
        self.times.append(time.monotonic())
        if len(self.answers) > 1:
            answer = self.answers.pop(0)
        else:
            (answer,) = self.answers
        if isinstance(answer, str):
            raise FetchFailed(answer)
        return Reading({("m", "1"): {"count": answer}})


def start(server: Server, pace: Pace) -> tuple[Poller, SimpleQueue[Answer]]:
    answers: SimpleQueue[Answer] = SimpleQueue()
    poller = Poller(TARGET, pace, answers, server)
    poller.start()
    return poller, answers


def finish(poller: Poller) -> float:
    begin = time.monotonic()
    poller.finish()
    poller.join(10)
    return time.monotonic() - begin


def counts(answers: SimpleQueue[Answer]) -> list[int | str]:
    found: list[int | str] = []
    while not answers.empty():
        answer = answers.get()
        found.append(
            answer.problem
            if answer.reading is None
            else answer.reading.counters["m", "1"]["count"]
        )
    return found


def test_the_last_polls_go_on_while_something_changes():
    server = Server(1, 4, 5, 5, 6)
    poller, answers = start(server, Pace(NEVER, 0.05, 1))
    answers.get(timeout=5)
    assert finish(poller) < 3
    assert counts(answers) == [4, 5, 5]
    assert poller.has_last


def test_a_server_that_is_never_at_rest_is_left_in_the_end():
    server = Server(*range(100))
    poller, answers = start(server, Pace(NEVER, 0.05, 1))
    answers.get(timeout=5)
    finish(poller)
    assert counts(answers) == [1, 2, 3, 4]


def test_a_pace_that_forbids_it_has_one_exception_at_the_end():
    server = Server(1, 4, 5)
    poller, answers = start(server, Pace(NEVER, NEVER, 1))
    answers.get(timeout=5)
    assert finish(poller) < 3
    assert counts(answers) == [4]


def test_a_server_that_does_not_answer_is_asked_again_soon():
    server = Server("no", 1)
    poller, answers = start(server, Pace(NEVER, 0.05, 1))
    assert answers.get(timeout=5).problem == "no"
    begin = poller.waiting_since
    assert begin == pytest.approx(server.times[0], abs=0.5)
    assert answers.get(timeout=5).reading is not None
    assert poller.waiting_since is None
    assert server.times[1] - server.times[0] < 3
    finish(poller)


def test_silence_begins_with_the_first_poll_without_an_answer():
    server = Server("no", "no", "no")
    poller, answers = start(server, Pace(0.01, 0.01, 1))
    for _ in range(3):
        answers.get(timeout=5)
    assert poller.waiting_since == pytest.approx(server.times[0], abs=0.5)
    finish(poller)
    assert not poller.has_last


def test_a_poll_that_hangs_is_silence_from_its_beginning():
    reached, go_on = threading.Event(), threading.Event()

    def hang(_address: str, _timeout: float) -> Reading:
        reached.set()
        go_on.wait(10)
        return Reading()

    poller = Poller(TARGET, Pace(0.1, 0.1, 1), SimpleQueue(), hang)
    poller.start()
    assert reached.wait(5)
    assert poller.waiting_since is not None
    poller.finish()
    poller.join(0.1)  # whoever stops does not wait for it
    go_on.set()
    poller.join(10)
