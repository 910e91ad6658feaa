"""How Triton runs a model: the helpers of `ModelConfig` for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from hermes.quiver import dtypes
from hermes.quiver.errors import InvalidConfig

__all__ = ("Scheduling",)

_CONTROLS = ("corrid", "end", "ready", "start")


class Scheduling:
    """Batching, sequences, warm-up and version policy of a configuration."""

    __slots__ = ()
    _message: Any

    def set_dynamic_batching(
        self,
        max_queue_delay_microseconds: int = 0,
        preferred_batch_size: Iterable[int] = (),
        preserve_ordering: bool = False,
    ) -> Any:
        """Have the server join requests to batches; returns the message.

        Args:
            max_queue_delay_microseconds: How long a request may wait for
                others.
            preferred_batch_size: Batches not to wait longer for.
            preserve_ordering: Answer in the order of the requests.

        Raises:
            InvalidConfig: If another scheduling is set, the model has no
                batch axis to join along, or a preferred size is larger than
                the batch.
        """
        self._choose("dynamic_batching")
        preferred = [*preferred_batch_size]
        # Without a batch axis it can still keep the order.
        joins = bool(preferred or max_queue_delay_microseconds)
        largest = self._max_batch_size() if joins else 1
        if max(preferred, default=1) > largest:
            msg = (
                f"preferred_batch_size={preferred} of a model with"
                f" max_batch_size={largest}; set max_batch_size first"
            )
            raise InvalidConfig(msg)
        batching = self._message.dynamic_batching
        batching.Clear()
        batching.max_queue_delay_microseconds = max_queue_delay_microseconds
        batching.preferred_batch_size.extend(preferred)
        batching.preserve_ordering = preserve_ordering
        batching.SetInParent()
        return batching

    def set_sequence_batching(
        self,
        strategy: str = "direct",
        max_sequence_idle_microseconds: int = 60_000_000,
        max_candidate_sequences: int = 0,
    ) -> Any:
        """Have the server keep a sequence's requests on one instance.

        States and control inputs that are declared stay.

        Args:
            strategy: ``"direct"`` (a slot of an instance for each sequence)
                or ``"oldest"`` (batches across sequences).
            max_sequence_idle_microseconds: After this long without a request
                a sequence is forgotten.
            max_candidate_sequences: For ``"oldest"``: sequences at a time;
                0 leaves it to Triton.

        Returns:
            The message, to be refined.

        Raises:
            InvalidConfig: If another scheduling is set, or there is no such
                strategy.
        """
        self._choose("sequence_batching")
        if strategy not in {"direct", "oldest"}:
            msg = f"strategy={strategy!r} is neither 'direct' nor 'oldest'"
            raise InvalidConfig(msg)
        batching = self._message.sequence_batching
        getattr(batching, strategy).SetInParent()
        if strategy == "oldest":
            batching.oldest.max_candidate_sequences = max_candidate_sequences
        idle = max_sequence_idle_microseconds
        batching.max_sequence_idle_microseconds = idle
        return batching

    def add_control_input(
        self, name: str, kind: str, dtype: npt.DTypeLike = "int32"
    ) -> Any:
        """Have the server tell the model of a sequence through a tensor.

        Args:
            name: The tensor.
            kind: ``"start"``, ``"end"``, ``"ready"`` (0 or 1), or
                ``"corrid"`` (the sequence's id).
            dtype: Its numpy dtype: int32, float32 or bool; any for
                ``"corrid"``.

        Raises:
            InvalidConfig: If there is no such kind, or not of this dtype.
        """
        self._choose("sequence_batching")
        values = {"TYPE_INT32": "int32", "TYPE_FP32": "fp32"}
        values["TYPE_BOOL"] = "bool"
        data_type = dtypes.to_triton(dtype)
        if kind not in _CONTROLS or (
            kind != "corrid" and data_type not in values
        ):
            msg = (
                f"kind={kind!r} of {data_type}: the kinds are"
                f" {', '.join(_CONTROLS)}; all but corrid are int32, float32"
                " or bool"
            )
            raise InvalidConfig(msg)
        control = self._message.sequence_batching.control_input.add(name=name)
        entry = control.control.add(kind=f"CONTROL_SEQUENCE_{kind.upper()}")
        if kind == "corrid":
            entry.data_type = data_type
        else:
            getattr(entry, f"{values[data_type]}_false_true").extend([0, 1])
        return control

    def add_warmup(
        self,
        name: str = "warmup",
        shapes: Mapping[str, Sequence[int]] | None = None,
        batch_size: int = 1,
        count: int = 1,
    ) -> Any:
        """Have the server send itself requests before it says it is ready.

        Args:
            name: What the server calls it.
            shapes: ``dims`` of the inputs that have variable ones.
            batch_size: Batch to send, where ``max_batch_size`` is set.
            count: How often.

        Returns:
            The message; its inputs are zeros, and may be set otherwise.

        Raises:
            InvalidConfig: If an input is unknown or its dims are variable.
        """
        shapes = dict(shapes or {})
        dims = {
            i.name: shapes.pop(i.name, i.dims) for i in self._message.input
        }
        variable = [
            n for n, sizes in dims.items() if min(sizes, default=1) < 1
        ]
        if shapes or variable or not dims:
            msg = (
                f"warm-up needs fixed dims of the inputs {[*dims]}: give"
                f" shapes= of {variable}; {[*shapes]} are no inputs"
            )
            raise InvalidConfig(msg)
        warmup = self._message.model_warmup.add(
            name=name,
            batch_size=batch_size if self._message.max_batch_size else 0,
            count=count,
        )
        for tensor in self._message.input:
            sent = warmup.inputs[tensor.name]
            sent.data_type, sent.zero_data = tensor.data_type, True
            sent.dims.extend(dims[tensor.name])
        return warmup

    def set_version_policy(
        self,
        latest: int | None = None,
        specific: Sequence[int] | None = None,
    ) -> Any:
        """Choose the versions that the server loads: all, if none are named.

        Args:
            latest: The highest so many.
            specific: These.

        Raises:
            InvalidConfig: If both are given, or not positive numbers.
        """
        given = [*(specific or ()), *([] if latest is None else [latest])]
        if (latest is not None and specific is not None) or any(
            number < 1 for number in given
        ):
            msg = (
                f"latest={latest}, specific={specific}: give one of them, with"
                " numbers from 1, or none for all versions"
            )
            raise InvalidConfig(msg)
        policy = self._message.version_policy
        policy.Clear()
        if latest is not None:
            policy.latest.num_versions = latest
        elif specific is not None:
            policy.specific.versions.extend(specific)
        else:
            policy.all.SetInParent()
        return policy

    def _max_batch_size(self) -> int:
        if self._message.max_batch_size < 1:
            msg = (
                f"{self._message.name!r} has no batch axis that the server"
                " could join requests along; set max_batch_size first"
            )
            raise InvalidConfig(msg)
        return int(self._message.max_batch_size)

    def _choose(self, wanted: str) -> None:
        """Refuse a second scheduling: protobuf would drop the first."""
        current = self._message.WhichOneof("scheduling_choice")
        if current not in {None, wanted}:
            msg = (
                f"{self._message.name!r} has {current}, and Triton one"
                f" scheduling for a model; config.ClearField({current!r})"
                f" makes room for {wanted}"
            )
            raise InvalidConfig(msg)
