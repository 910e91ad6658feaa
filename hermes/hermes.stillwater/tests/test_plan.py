"""How stages are joined."""

from __future__ import annotations

import pytest

from hermes.stillwater import Pipeline, stage
from hermes.stillwater._plan import Branches, make_plan
from hermes.stillwater.errors import InvalidPipeline
from hermes.stillwater.process import PipelineProcess


def make(name: str, **options: int) -> PipelineProcess:
    return stage(abs, name=name, **options)


def test_stages_follow_one_another() -> None:
    nodes, reader = make_plan([make("a"), make("b")])
    assert [node.name for node in nodes] == ["a", "b"]
    assert nodes[0].inputs == []
    assert nodes[0].outputs == [nodes[1]]
    assert nodes[1].outputs == [reader]
    assert reader.workers == 1


def test_branches_share_their_input_and_are_joined() -> None:
    branches = Branches(((make("b"),), (make("c"), make("d"))))
    nodes, _ = make_plan([make("a"), branches, make("e")])
    a, b, c, d, e = nodes
    assert a.outputs == [b, c]
    assert e.inputs == [b, d]
    assert [node.is_branch for node in nodes] == [0, 1, 1, 1, 0]
    assert c.outputs == [d]


def test_sources_side_by_side_are_no_fork() -> None:
    nodes, _ = make_plan(
        [Branches(((make("a"),), (make("b"),))), make("join")]
    )
    assert not any(node.is_branch for node in nodes)
    assert nodes[2].inputs == nodes[:2]


def test_names_are_made_unique() -> None:
    nodes, _ = make_plan([make("a"), make("a"), make("a-2"), make("a")])
    assert [node.name for node in nodes] == ["a", "a-2", "a-2-2", "a-3"]


def test_a_stage_has_one_place() -> None:
    one = make("one")
    with pytest.raises(InvalidPipeline, match="'one' has two places"):
        make_plan([one, one])


def test_sources_and_joins_have_one_worker() -> None:
    many = make("many", workers=2)
    with pytest.raises(InvalidPipeline, match="a source must have one"):
        make_plan([many])
    branches = Branches(((make("b"),), (make("c"),)))
    with pytest.raises(InvalidPipeline, match="that joins must have one"):
        make_plan([make("a"), branches, many])


def test_a_branch_may_not_end_in_branches() -> None:
    with pytest.raises(InvalidPipeline, match="join them in a stage first"):
        make("a") >> [make("b") >> [make("c"), make("d")], make("e")]


def test_an_empty_pipeline_is_refused() -> None:
    with pytest.raises(InvalidPipeline, match="needs a stage"):
        Pipeline()
