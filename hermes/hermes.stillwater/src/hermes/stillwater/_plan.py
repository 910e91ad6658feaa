"""Pure: how stages are joined, and who sends what to whom."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from hermes.stillwater.errors import InvalidPipeline
from hermes.stillwater.process import PipelineProcess

__all__ = ("Branches", "Node", "make_plan")


@dataclass(frozen=True)
class Branches:
    """Sequences of steps, side by side.

    Attributes:
        steps: The steps of each.
    """

    steps: tuple[tuple[Step, ...], ...]


Step = PipelineProcess | Branches


@dataclass(eq=False)
class Node:
    """A stage in its place.

    Attributes:
        name: Its name, which no other stage of the pipeline has.
        stage: The stage; None for the program that reads the results.
        inputs: Where its packages come from; several are joined.
        outputs: Where they go to; each gets all of them.
        is_branch: Whether it lies between a fork and the join of what comes
            out: it must give one package for each, or one side would wait
            for the other, and both for ever.
    """

    name: str
    stage: PipelineProcess | None
    inputs: list[Node]
    outputs: list[Node] = field(default_factory=list)
    is_branch: bool = False

    @property
    def workers(self) -> int:
        """Its processes."""
        return 1 if self.stage is None else self.stage.workers


def make_plan(steps: Sequence[Step]) -> tuple[list[Node], Node]:
    """Lay a pipeline out.

    Returns:
        The stages, each after its inputs; and the program that reads.

    Raises:
        InvalidPipeline: If they cannot be joined like that.
    """
    nodes: list[Node] = []
    ends = _lay(steps, [], nodes)
    reader = Node("the program", None, ends)
    for node in (*nodes, reader):
        for source in node.inputs:
            source.outputs.append(node)
    _check(nodes)
    return nodes, reader


def _lay(
    steps: Sequence[Step],
    inputs: list[Node],
    nodes: list[Node],
    *,
    is_branch: bool = False,
) -> list[Node]:
    for step in steps:
        if isinstance(step, Branches):
            forked = is_branch or bool(inputs)
            ends = [
                _lay(branch, inputs, nodes, is_branch=forked)
                for branch in step.steps
            ]
            if any(len(end) > 1 for end in ends):
                msg = "a branch ends in branches: join them in a stage first"
                raise InvalidPipeline(msg)
            inputs = [end for (end,) in ends]
        else:
            name = _free_name(step.name, {node.name for node in nodes})
            inputs = [Node(name, step, inputs, is_branch=is_branch)]
            nodes += inputs
    return inputs


def _free_name(name: str, taken: set[str]) -> str:
    others = (f"{name}-{n}" for n in itertools.count(2))
    return next(n for n in itertools.chain([name], others) if n not in taken)


def _check(nodes: Sequence[Node]) -> None:
    stages = [id(node.stage) for node in nodes]
    for node in nodes:
        if stages.count(id(node.stage)) > 1:
            msg = f"stage {node.name!r} has two places; make a second stage"
            raise InvalidPipeline(msg)
        if node.workers > 1 and len(node.inputs) != 1:
            what = "a source" if not node.inputs else "a stage that joins"
            msg = (
                f"stage {node.name!r} has workers={node.workers}, but {what}"
                " must have one"
            )
            raise InvalidPipeline(msg)
