"""Errors that carry more than a message."""

import pickle

import pytest

from hermes.cloudbreak.errors import HostsFailed, ReplicasFailed


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ReplicasFailed("1 of 2", {"triton-1": "x"}), "failed"),
        (HostsFailed("1 of 2", {"triton-1": "x"}), "results"),
    ],
)
def test_who_failed_survives_the_way_from_another_process(error, name) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert str(copy) == "1 of 2"
    assert getattr(copy, name) == {"triton-1": "x"}
