import functools
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.stillwater._campaign._identity import digest, name_of
from hermes.stillwater._campaign._units import collect, cost
from hermes.stillwater.campaign import Segment
from hermes.stillwater.errors import InvalidCampaign

STARTS = st.floats(0, 1e12) | st.integers(0, 2**40)
SHIFTS = st.lists(st.floats(-1e6, 1e6), max_size=3).map(tuple)
SEGMENTS = st.builds(Segment, STARTS, st.floats(1e-3, 1e6), SHIFTS)


@given(st.lists(SEGMENTS, min_size=1, unique=True))
def test_different_segments_have_different_keys(segments):
    assert list(collect(segments).values()) == segments


def test_keys_of_segments_are_readable():
    assert Segment(1.4e9, 4096).key == "1400000000-4096"
    assert Segment(1.4e9, 64.5, (0, -1.5)).key == "1400000000-64.5-0_-1.5"
    assert Segment(np.float64(7.25), np.int64(8)).key == "7.25-8"
    assert Segment(100, 4).end == 104


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((-1, 4), "from -1.0 with duration 4.0"),
        ((1, 0), "a duration above 0"),
        ((float("nan"), 1), "give finite seconds"),
        ((1, 1, (float("inf"),)), "give finite seconds"),
        (("soon", 1), "no segment: could not convert"),
        ((1, 1, 5), "no segment: .*not iterable"),
    ],
)
def test_what_is_no_segment_is_refused(arguments, reason):
    with pytest.raises(InvalidCampaign, match=reason):
        Segment(*arguments)


@pytest.mark.parametrize(
    ("units", "reason"),
    [
        ([], "no units were given"),
        ("abc", "give a sequence or a mapping"),
        (7, "give a sequence or a mapping"),
        ([1, 2], "the unit 1 has no key"),
        (["a", "a"], "two units have the key 'a'"),
        (["a/b"], "the key 'a/b' cannot name a file"),
        ([".."], "cannot name a file"),
        ({3: "x"}, "the key 3 cannot name a file"),
        (["x" * 201], "cannot name a file"),
    ],
)
def test_units_that_make_no_campaign_are_refused(units, reason):
    with pytest.raises(InvalidCampaign, match=reason):
        collect(units)


def test_mappings_are_taken_as_they_are():
    assert collect({"a": 1, "b": 1}) == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("unit", "expected"),
    [(Segment(0, 5), 5.0), ("a", 1.0), (Path(), 1.0)],
)
def test_a_unit_costs_its_duration(unit, expected):
    assert cost(unit) == expected


@dataclass(frozen=True)
class Unit:
    number: int
    array: object = None


class Colour(Enum):
    RED = 1


class Opaque:
    def method(self):
        """Nothing."""


def function():
    """Nothing."""


DIFFERENT = [
    None,
    True,
    7,
    "7",
    7.0,
    b"7",
    (7, 8),
    {"a": 7},
    {"a": 8},
    {7, 8},
    Path("7"),
    Colour.RED,
    Unit(7),
    Unit(8),
    Unit(7, np.zeros(3)),
    Unit(7, np.zeros(3, np.float32)),
    Unit(7, np.ones(3)),
    np.array([{}], object),
    np.float32(7),
    Opaque(),
    Opaque().method,
    function,
    Opaque,
    len,
    functools.partial(function, 1),
    functools.partial(function, a=1),
]


def test_different_values_have_different_digests():
    assert len({digest(value) for value in DIFFERENT}) == len(DIFFERENT)


def test_equal_values_have_equal_digests():
    assert digest({"a": 1, "b": {2, 1}}) == digest({"b": {1, 2}, "a": 1})
    assert digest(Unit(1, np.zeros(3))) == digest(Unit(1, np.zeros(3)))
    assert digest(Opaque()) == digest(Opaque())  # only the type is compared


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (functools.partial(functools.partial(function)), "function"),
        (Opaque(), "Opaque"),
    ],
)
def test_functions_are_called_by_their_names(run, name):
    assert name_of(run) == name
