"""Stages as users write them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from hermes.stillwater import Pipeline, PipelineProcess, stage
from hermes.stillwater.errors import InvalidPipeline


class Square(PipelineProcess):
    def process(self, package: float) -> float:
        return package**2


def test_a_stage_is_called_like_its_class() -> None:
    assert Square().name == "Square"
    assert repr(Square("other", 5.0, 3)) == "<Square 'other'>"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("name", ""),
        ("name", 5),
        ("rate", 0),
        ("rate", -1.0),
        ("rate", math.nan),
        ("rate", math.inf),
        ("rate", "5"),
        ("join_timeout", 0),
        ("workers", 0),
        ("workers", 1.5),
        ("workers", True),
        ("buffer_size", 0),
        ("depth", -1),
    ],
)
def test_options_that_make_no_sense_are_named(option: str, value: Any) -> None:
    with pytest.raises(InvalidPipeline, match=f"{option}={value!r}"):
        Square(**{option: value})


def test_process_must_be_written() -> None:
    with pytest.raises(NotImplementedError):
        PipelineProcess("nothing").process(None)


def test_emit_and_fail_belong_to_the_running_stage() -> None:
    with pytest.raises(InvalidPipeline, match=r"emit\(\) is for its process"):
        Square().emit(5)
    with pytest.raises(InvalidPipeline, match=r"fail\(\) is for its process"):
        Square().fail(ValueError())


def test_functions_and_iterables_become_stages() -> None:
    pipeline = [1, 2] >> Square() >> abs
    assert pipeline.names == ("list", "Square", "abs")
    assert (math.sqrt >> Square()).names == ("sqrt", "Square")
    assert Pipeline(range(3), abs).names == ("range", "abs")
    assert list(stage([1, 2]).process(None)) == [1, 2]
    assert stage(abs, "name").process(-1) == 1


def numbers() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (Square(), "is a stage already"),
        (Square, r"a class of stages: give a stage, Square\(...\)"),
        (numbers(), "give the function that makes it"),
        (5, "give a function or an iterable"),
    ],
)
def test_what_is_no_stage_is_refused(work: Any, message: str) -> None:
    with pytest.raises(InvalidPipeline, match=message):
        stage(work)
