"""What an ensemble streams, as parameters that clients read.

The server hands a model's configuration to every client, so that these
parameters need no side channel. ``hermes.stream`` of an ensemble is a
contract with hermes.aeriel (ARCHITECTURE.md, "Contracts between the
libraries"); it is worked out from the graph and from ``hermes.memory``,
which every streaming model carries in its own configuration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from hermes.quiver import _graph
from hermes.quiver.config import ModelConfig

if TYPE_CHECKING:
    from hermes.quiver.models import Model

__all__ = (
    "Memory",
    "Stream",
    "StreamInput",
    "StreamOutput",
    "StreamTensor",
    "compose",
    "flows",
    "read_memory",
    "write_memory",
    "write_stream",
)

_MEMORY = "hermes.memory"
_STATES = "states"
_STREAM = "hermes.stream"


class Memory(TypedDict, total=False):
    """What a streaming model remembers; sizes in samples.

    ``kind`` is ``"snapshotter"``, ``"averager"`` or ``"layer"``; the other
    keys are those of the kind. ``num_updates`` of a layer is how many past
    updates its state depends on, None without a bound.
    """

    kind: str
    stride_size: int
    snapshot_size: int
    batch_size: int
    update_size: int
    num_updates: int | None
    divide_by_contributions: bool


class StreamTensor(TypedDict):
    """A downstream tensor; ``channels`` is None without a channel axis."""

    name: str
    channels: int | None


class StreamInput(TypedDict):
    """An input that takes updates; sizes in samples."""

    name: str
    tensors: list[StreamTensor]
    stride_size: int
    update_size: int
    snapshot_size: int
    batch_size: int
    num_warmup: int


class StreamOutput(TypedDict):
    """An output: how much of it comes per update, and is invalid at first."""

    name: str
    num_warmup: int
    size: int


class Stream(TypedDict):
    """The whole parameter."""

    version: int
    inputs: list[StreamInput]
    outputs: list[StreamOutput]
    replay_updates: int | None


def read_memory(config: ModelConfig) -> Memory | None:
    """What a model remembers; None if its configuration does not say."""
    if _MEMORY not in config.parameters:
        return None
    memory: Memory = json.loads(config.parameters[_MEMORY].string_value)
    return memory


def write_memory(config: ModelConfig, memory: Memory) -> None:
    """Say what a model remembers."""
    config.parameters[_MEMORY].string_value = _dump(memory)


def write_stream(config: ModelConfig, stream: Stream) -> None:
    """Write it, and the older ``states`` of its first input."""
    config.parameters[_STREAM].string_value = _dump(stream)
    states = ",".join(t["name"] for t in stream["inputs"][0]["tensors"])
    config.parameters[_STATES].string_value = states


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


@dataclass(frozen=True)
class Flow:
    """What is known of a tensor that depends on a stream.

    Attributes:
        num_warmup: Its first items that are not valid: predictions, or
            samples of an average.
        size: Items per update.
        depth: Past updates on which it depends; None without a bound.
    """

    num_warmup: int
    size: int
    depth: int | None


def flows(config: ModelConfig, models: Mapping[str, Model]) -> dict[str, Flow]:
    """Follow the streams through a graph: what each step gives, by label."""
    found: dict[str, Flow] = {}
    tensors: dict[str, Flow] = {}
    for label, step in _graph.ordered(config).items():
        fed = [tensors[k] for k in step.input_map.values() if k in tensors]
        flow = _through(models[step.model_name].config, fed)
        if flow is not None:
            found[label] = flow
            tensors.update(dict.fromkeys(step.output_map.values(), flow))
    return found


def _through(config: ModelConfig, fed: Sequence[Flow]) -> Flow | None:
    """What a model makes of the streams that feed it."""
    memory = read_memory(config)
    if memory is not None and memory["kind"] == "snapshotter":
        return _snapshots(memory)
    if memory is not None and memory["kind"] == "averager" and fed:
        return _average(memory, _join(fed))
    is_stateful = config.HasField("sequence_batching")
    if not is_stateful:
        return _join(fed) if fed else None
    flow = _join(fed) if fed else Flow(0, 1, 0)
    depth = None if memory is None else memory["num_updates"]
    return Flow(flow.num_warmup, flow.size, _add(flow.depth, depth))


def _snapshots(memory: Memory) -> Flow:
    stride, kernel = memory["stride_size"], memory["snapshot_size"]
    batch = memory["batch_size"]
    return Flow(
        num_warmup=-(-kernel // stride) - 1,
        size=batch,
        depth=-(-kernel // (stride * batch)),
    )


def _average(memory: Memory, flow: Flow) -> Flow:
    others = (memory["num_updates"] or 1) - 1
    block, batch = memory["update_size"], memory["batch_size"]
    return Flow(
        num_warmup=(flow.num_warmup + others) * block,
        size=block * batch,
        depth=_add(flow.depth, -(-others // batch)),
    )


def _join(fed: Sequence[Flow]) -> Flow:
    depths = [flow.depth for flow in fed]
    known = [depth for depth in depths if depth is not None]
    return Flow(
        num_warmup=max(flow.num_warmup for flow in fed),
        size=max(flow.size for flow in fed),
        depth=max(known) if len(known) == len(depths) else None,
    )


def _add(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def compose(config: ModelConfig, models: Mapping[str, Model]) -> Stream | None:
    """Work out what an ensemble streams; None if it does not.

    The graph must be complete.
    """
    inputs = _stream_inputs(config, models)
    if not inputs:
        return None
    by_label = flows(config, models)
    known = {
        name: by_label[label]
        for label, step in _graph.ordered(config).items()
        if label in by_label
        for name in step.output_map.values()
    }
    depths = [flow.depth for flow in by_label.values()]
    bounded = [depth for depth in depths if depth is not None]
    return Stream(
        version=1,
        inputs=inputs,
        outputs=[
            StreamOutput(
                name=name,
                num_warmup=known[name].num_warmup,
                size=known[name].size,
            )
            for name in (output.name for output in config.output)
            if name in known
        ],
        replay_updates=max(bounded) if len(bounded) == len(depths) else None,
    )


def _stream_inputs(
    config: ModelConfig, models: Mapping[str, Model]
) -> list[StreamInput]:
    found = []
    for step in config.ensemble_scheduling.step:
        memory = read_memory(models[step.model_name].config)
        if memory is None or memory["kind"] != "snapshotter":
            continue
        (name,) = step.input_map.values()
        stride, batch = memory["stride_size"], memory["batch_size"]
        found.append(
            StreamInput(
                name=name,
                tensors=_tensors(config, models[step.model_name], step),
                stride_size=stride,
                update_size=stride * batch,
                snapshot_size=memory["snapshot_size"],
                batch_size=batch,
                num_warmup=_snapshots(memory).num_warmup,
            )
        )
    return found


def _tensors(
    config: ModelConfig, snapshotter: Model, step: Any
) -> list[StreamTensor]:
    """The tensors that a snapshotter feeds, in the order of channels."""
    fed = {
        source: f"{label}/{name}"
        for label, other in zip(
            _graph.labels(config),
            config.ensemble_scheduling.step,
            strict=True,
        )
        for name, source in other.input_map.items()
    }
    return [
        StreamTensor(
            name=fed[step.output_map[name]],
            channels=output.shape[1] if len(output.shape) == 3 else None,
        )
        for name, output in snapshotter.outputs.items()
    ]
