"""What a client knows of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hermes.aeriel import _html, dtypes

__all__ = (
    "ModelSpec",
    "StreamInput",
    "StreamOutput",
    "StreamSpec",
    "TensorSpec",
)


@dataclass(frozen=True, repr=False)
class TensorSpec:
    """A tensor that a model takes or gives.

    Attributes:
        name: Its name.
        shape: Its shape, batch axis included; None is variable.
        dtype: Its numpy dtype; ``object`` for bytes, ``float32`` for BF16.
        datatype: Triton's name of it, such as ``"FP32"``; that of the dtype
            by default.
        optional: Whether a request may leave it out.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype
    datatype: str = ""
    optional: bool = False

    def __post_init__(self) -> None:
        if not self.datatype:
            datatype = dtypes.to_wire(self.dtype)
            object.__setattr__(self, "datatype", datatype)

    def __str__(self) -> str:
        optional = " (optional)" if self.optional else ""
        return f"{self.name} {self._type}{list(self.shape)}{optional}"

    def __repr__(self) -> str:
        return f"TensorSpec({self})"

    def _repr_html_(self) -> str:
        return _html.table([self._cells], ("tensor", "shape", "dtype"))

    @property
    def _type(self) -> str:
        names = {"BF16": "bfloat16", "BYTES": "bytes"}
        return names.get(self.datatype, str(self.dtype))

    @property
    def _cells(self) -> tuple[str, str, str]:
        optional = ", optional" if self.optional else ""
        return self.name, str(list(self.shape)), f"{self._type}{optional}"


@dataclass(frozen=True)
class StreamInput:
    """An input that takes updates of a stream; sizes in samples.

    Attributes:
        name: Name of the input.
        tensors: Channels of each downstream tensor (None: it has no channel
            axis and takes one), in the order of the update's channels.
        stride_size: Samples between consecutive kernels.
        update_size: Samples in an update.
        snapshot_size: Samples in a kernel.
        batch_size: Kernels that the server makes of one update.
        num_warmup: Kernels at the start of a sequence that begin with zeros
            which were never sent.
    """

    name: str
    tensors: Mapping[str, int | None]
    stride_size: int
    update_size: int
    snapshot_size: int
    batch_size: int
    num_warmup: int

    def __str__(self) -> str:
        return (
            f"{self.name}: stride {self.stride_size}, kernel"
            f" {self.snapshot_size}, batch {self.batch_size}, update"
            f" {self.update_size} samples, warm-up {self.num_warmup}"
        )


@dataclass(frozen=True)
class StreamOutput:
    """An output of a streaming model.

    Attributes:
        name: Name of the output.
        num_warmup: Items at the start of a sequence that are not valid yet:
            predictions, or the samples of a running average.
        size: Items per update.
    """

    name: str
    num_warmup: int
    size: int

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.size} per update, warm-up {self.num_warmup}"
        )


@dataclass(frozen=True)
class StreamSpec:
    """What a model streams.

    Attributes:
        inputs: Its streaming inputs by name.
        outputs: Its streaming outputs by name.
        replay_updates: Past updates that rebuild the server's state of a
            sequence exactly; None where no number of them does.
    """

    inputs: Mapping[str, StreamInput]
    outputs: Mapping[str, StreamOutput]
    replay_updates: int | None

    @property
    def num_warmup(self) -> int:
        """Predictions at the start of a sequence that are not all valid."""
        return max((o.num_warmup for o in self.outputs.values()), default=0)

    @property
    def size(self) -> int:
        """Predictions per update."""
        return max((o.size for o in self.outputs.values()), default=1)

    def __str__(self) -> str:
        lines = [f"stream ({self._replay})"]
        lines += [f"  takes  {entry}" for entry in self.inputs.values()]
        lines += [f"  gives  {entry}" for entry in self.outputs.values()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        takes = _html.table(
            [
                (
                    entry.name,
                    entry.stride_size,
                    entry.snapshot_size,
                    entry.batch_size,
                    entry.update_size,
                    entry.num_warmup,
                )
                for entry in self.inputs.values()
            ],
            ("takes", "stride", "kernel", "batch", "update", "warm-up"),
        )
        gives = _html.table(
            [(o.name, o.size, o.num_warmup) for o in self.outputs.values()],
            ("gives", "per update", "warm-up"),
        )
        return _html.paragraph("stream", self._replay) + takes + gives

    @property
    def _replay(self) -> str:
        if self.replay_updates is None:
            return "no number of updates rebuilds its state"
        return f"replay_updates {self.replay_updates}"


@dataclass(frozen=True, repr=False)
class ModelSpec:
    """A model as its server describes it.

    Attributes:
        name: Its name.
        version: The version asked for; None is the latest.
        inputs: What a request must carry, by name.
        outputs: What an answer carries, by name.
        states: Parts of the streaming inputs: each downstream tensor that
            one of them feeds, by its name ``"<model>/<tensor>"``.
        stream: What the model streams; None if it does not.
        is_stateful: Whether the server keeps state between requests, so
            that each request must belong to a sequence.
        max_batch_size: Rows that a request may have; 0 where the server sets
            no limit.
        sees_sequence_id: Whether the model is told the sequence's id, so
            that its answers may depend on it.
    """

    name: str
    version: int | None
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    states: Mapping[str, TensorSpec] = field(default_factory=dict)
    stream: StreamSpec | None = None
    is_stateful: bool = False
    max_batch_size: int = 0
    sees_sequence_id: bool = False

    def __str__(self) -> str:
        lines = [self._title]
        lines += [f"  {kind:6} {tensor}" for kind, tensor in self._tensors]
        if self.stream is not None:
            lines += [f"  {line}" for line in str(self.stream).splitlines()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        shown = ", ".join(f"{kind} {t}" for kind, t in self._tensors)
        return f"ModelSpec({self._title}: {shown})"

    def _repr_html_(self) -> str:
        rows = [(kind, *tensor._cells) for kind, tensor in self._tensors]
        head = ("", "name", "shape", "dtype")
        stream = "" if self.stream is None else self.stream._repr_html_()
        return _html.paragraph(self._title) + _html.table(rows, head) + stream

    @property
    def _title(self) -> str:
        version = "latest" if self.version is None else self.version
        more = ", stateful" if self.is_stateful else ""
        if self.max_batch_size:
            more += f", at most {self.max_batch_size} rows"
        return f"{self.name} (version {version}{more})"

    @property
    def _tensors(self) -> list[tuple[str, TensorSpec]]:
        """Each tensor and what it is."""
        groups = {
            "input": self.inputs,
            "state": self.states,
            "output": self.outputs,
        }
        return [
            (kind, tensor)
            for kind, group in groups.items()
            for tensor in group.values()
        ]
