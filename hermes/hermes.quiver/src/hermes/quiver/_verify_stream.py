"""Stream through an ensemble in this process, and compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hermes.quiver import _graph, _offline
from hermes.quiver._examples import example
from hermes.quiver.errors import (
    InvalidInput,
    UnsupportedExport,
    VerificationFailed,
)
from hermes.quiver.exporters._types import Arrays, Session
from hermes.quiver.platforms import Platform
from hermes.quiver.streaming._parameters import (
    Memory,
    Stream,
    compose,
    read_memory,
)

if TYPE_CHECKING:
    from hermes.quiver.config import ModelConfig
    from hermes.quiver.ensembles import Ensemble
    from hermes.quiver.models import Model

__all__ = ("OutputReport", "StreamReport", "can_run", "verify_stream")

# Without data of the caller's a stream is checked over this many updates at
# most: long streams of large networks would make every export slow.
_MAX_UPDATES = 40

OpenSession = Callable[[bytes], Session]
Load = Callable[["Model", int | None], Session]


@dataclass(frozen=True)
class OutputReport:
    """How one output of a stream compares with the offline computation.

    Attributes:
        name: Its name.
        num_items: Items compared: predictions, or samples of an average.
        num_valid: How many of them come after the warm-up.
        num_different: How many differ in at least one bit.
        max_abs_error: The largest difference.
        where: Index of the largest difference: item, then the other axes.
    """

    name: str
    num_items: int
    num_valid: int
    num_different: int
    max_abs_error: float
    where: tuple[int, ...]

    def __str__(self) -> str:
        compared = (
            f"{self.name}: {self.num_items} compared"
            f" ({self.num_valid} after warm-up)"
        )
        if not self.num_different:
            return f"{compared}, equal to the last bit"
        return (
            f"{compared}, {self.num_different} differ, most at {self.where}:"
            f" by {self.max_abs_error:.3g}"
        )


@dataclass(frozen=True)
class StreamReport:
    """How a stream compares with the offline computation.

    Attributes:
        ensemble: Name of the ensemble.
        num_updates: Updates that were streamed.
        outputs: A report of each output.
    """

    ensemble: str
    num_updates: int
    outputs: tuple[OutputReport, ...]

    @property
    def is_equal(self) -> bool:
        """Whether every output is equal to the last bit."""
        return not any(output.num_different for output in self.outputs)

    def __str__(self) -> str:
        head = f"{self.ensemble}, {self.num_updates} updates:"
        return "\n  ".join([head, *map(str, self.outputs)])


def can_run(config: ModelConfig, models: Mapping[str, Model]) -> bool:
    """Whether onnxruntime can run every step of an ensemble."""
    return all(
        models[step.model_name].platform is Platform.ONNX
        for step in config.ensemble_scheduling.step
    )


def verify_stream(
    ensemble: Ensemble,
    config: ModelConfig,
    open_session: OpenSession,
    data: Mapping[str, npt.ArrayLike] | None = None,
) -> StreamReport:
    """Stream through an ensemble in this process, and compare.

    Twice the same data: once with the states that a server would keep, once
    with sliding windows and averages computed from all of it.

    Args:
        ensemble: The ensemble.
        config: Its configuration, with a complete graph.
        open_session: Loads an ONNX artifact.
        data: A stream for each streaming input, ``(channels, time)``, a whole
            number of updates; random by default.

    Returns:
        The report.

    Raises:
        UnsupportedExport: If the ensemble streams nothing, or a step is no
            ONNX model.
        InvalidInput: If the data is not such.
        VerificationFailed: If a bit differs; the message is the report.
    """
    models = ensemble.repository.models
    stream = compose(config, models)
    if stream is None or not can_run(config, models):
        msg = (
            f"ensemble {config.name!r} cannot be verified: it must have a"
            " streaming input, and ONNX models only"
        )
        raise UnsupportedExport(msg)
    rng = np.random.default_rng(0)
    samples = _samples(stream, ensemble, data, rng)
    num_updates = _num_updates(stream, samples)
    others = {
        name: example(rng, [d or 1 for d in tensor.shape], tensor.dtype)
        for name, tensor in ensemble.inputs.items()
        if name not in samples
    }
    load = _loader(open_session)
    results: list[dict[str, list[npt.NDArray[Any]]]] = []
    for is_offline in (False, True):
        run = _Run(config, models, load, samples, is_offline=is_offline)
        steps = [run.update(i, others) for i in range(num_updates)]
        results.append(
            {o.name: [step[o.name] for step in steps] for o in config.output}
        )
    report = StreamReport(
        config.name,
        num_updates,
        tuple(
            _report(stream, name, results[0][name], results[1][name])
            for name in results[0]
        ),
    )
    if not report.is_equal:
        msg = f"the stream differs from the offline computation: {report}"
        raise VerificationFailed(msg)
    return report


def _samples(
    stream: Stream,
    ensemble: Ensemble,
    data: Mapping[str, Any] | None,
    rng: np.random.Generator,
) -> Arrays:
    depth = stream["replay_updates"] or 1
    default = min(2 * depth + 3, _MAX_UPDATES)
    found = {}
    for entry in stream["inputs"]:
        tensor = ensemble.inputs[entry["name"]]
        if data is None:
            shape = [tensor.shape[1] or 1, default * entry["update_size"]]
            found[entry["name"]] = example(rng, shape, tensor.dtype)
            continue
        if entry["name"] not in data:
            wanted = [e["name"] for e in stream["inputs"]]
            msg = f"data has {[*data]}; it needs a stream for each of {wanted}"
            raise InvalidInput(msg)
        array = np.asarray(data[entry["name"]], tensor.dtype)
        if array.ndim != 2 or array.shape[0] != tensor.shape[1]:
            msg = (
                f"data[{entry['name']!r}] has shape {array.shape}; it must be"
                f" ({tensor.shape[1]}, time)"
            )
            raise InvalidInput(msg)
        found[entry["name"]] = array
    return found


def _num_updates(stream: Stream, samples: Arrays) -> int:
    counts = {
        entry["name"]: divmod(
            samples[entry["name"]].shape[-1], entry["update_size"]
        )
        for entry in stream["inputs"]
    }
    whole: set[int] = {count for count, rest in counts.values() if not rest}
    if len(whole) != 1 or any(rest for _, rest in counts.values()):
        sizes = {e["name"]: e["update_size"] for e in stream["inputs"]}
        msg = f"data must be as many whole updates (of {sizes} samples) each"
        raise InvalidInput(msg)
    return whole.pop()


def _loader(open_session: OpenSession) -> Load:
    """Read and open each artifact once, for both runs: they share no state."""
    opened: dict[tuple[str, int | None], Session] = {}

    def load(model: Model, version: int | None) -> Session:
        key = model.name, version
        if key not in opened:
            opened[key] = open_session(model.read_version(version))
        return opened[key]

    return load


class _Run:
    """An ensemble in this process: its steps, and what they remember."""

    def __init__(
        self,
        config: ModelConfig,
        models: Mapping[str, Model],
        load: Load,
        samples: Arrays,
        *,
        is_offline: bool,
    ) -> None:
        self._samples = samples
        self._steps = [
            _Step(
                step,
                models[step.model_name],
                load,
                is_offline=is_offline,
            )
            for step in _graph.ordered(config).values()
        ]

    def update(self, index: int, others: Arrays) -> Arrays:
        """Pass one update through all steps; returns all tensors."""
        tensors = dict(others)
        for step in self._steps:
            step.run(index, self._samples, tensors)
        return tensors


class _Step:
    """One step: an ONNX session and its states, or what replaces it."""

    def __init__(
        self,
        step: Any,
        model: Model,
        load: Load,
        *,
        is_offline: bool,
    ) -> None:
        self._inputs = dict(step.input_map)
        self._outputs = dict(step.output_map)
        self._model = model
        memory = read_memory(model.config)
        known = memory is not None and memory["kind"] != "layer"
        self._memory = memory if known else None
        self._replaced = is_offline and known
        self._history: list[npt.NDArray[Any]] = []
        version = None if step.model_version < 1 else step.model_version
        if not self._replaced:
            self._session = load(model, version)
        states = model.config.sequence_batching.state
        self._names = {s.input_name: s.output_name for s in states}
        self._states = _zero_states(model.config)

    def run(self, index: int, samples: Arrays, tensors: Arrays) -> None:
        """Compute this step's tensors from those that feed it."""
        if self._replaced and self._memory is not None:
            results = self._offline(self._memory, index, samples, tensors)
        else:
            results = self._stream(index, samples, tensors)
        for name, key in self._outputs.items():
            tensors[key] = results[name]

    def _stream(self, index: int, samples: Arrays, tensors: Arrays) -> Arrays:
        feeds = {
            name: tensors[key]
            if key in tensors
            else self._update(samples[key], index)
            for name, key in self._inputs.items()
        }
        names = [*self._outputs, *self._names.values()]
        arrays = self._session(names, {**feeds, **self._states})
        results = dict(zip(names, arrays, strict=True))
        self._states = {i: results[o] for i, o in self._names.items()}
        return results

    def _offline(
        self, memory: Memory, index: int, samples: Arrays, tensors: Arrays
    ) -> Arrays:
        (source,) = self._inputs.values()
        if memory["kind"] == "snapshotter":
            found = _offline.kernels(samples[source], memory, index)
            return self._split(found)
        self._history.extend(tensors[source])
        averages = _offline.average(self._history, memory)
        return dict.fromkeys(self._outputs, averages)

    def _update(
        self, samples: npt.NDArray[Any], index: int
    ) -> npt.NDArray[Any]:
        size = next(iter(self._model.inputs.values())).shape[-1] or 1
        return samples[None, :, index * size : (index + 1) * size]

    def _split(self, kernels: npt.NDArray[Any]) -> Arrays:
        """The channels of each tensor, in the order of the update's."""
        parts, first = {}, 0
        for name, output in self._model.outputs.items():
            if len(output.shape) == 2:
                parts[name] = kernels[:, first]
                first += 1
                continue
            last = first + (output.shape[1] or 0)
            parts[name] = kernels[:, first:last]
            first = last
        return parts


def _zero_states(config: ModelConfig) -> Arrays:
    return {
        name: np.zeros(shape, dtype)
        for name, (shape, dtype) in config.state_shapes().items()
    }


def _report(
    stream: Stream,
    name: str,
    streamed: list[npt.NDArray[Any]],
    offline: list[npt.NDArray[Any]],
) -> OutputReport:
    known = {output["name"]: output for output in stream["outputs"]}
    # Averages go on along time, predictions along the batch.
    size = known[name]["size"] if name in known else len(streamed[0])
    axis = 0 if len(streamed[0]) == size else -1
    actual, expected = (
        np.moveaxis(np.concatenate(arrays, axis), axis, 0)
        for arrays in (streamed, offline)
    )
    differs = actual != expected
    if np.issubdtype(actual.dtype, np.floating):
        differs &= ~(np.isnan(actual) & np.isnan(expected))
    error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    error = np.where(differs, np.nan_to_num(error, nan=np.inf), 0.0)
    worst = np.unravel_index(int(np.argmax(error)), error.shape)
    warmup = known[name]["num_warmup"] if name in known else 0
    return OutputReport(
        name=name,
        num_items=len(actual),
        num_valid=max(0, len(actual) - warmup),
        num_different=int(differs.reshape(len(actual), -1).any(1).sum()),
        max_abs_error=float(error.max(initial=0)),
        where=tuple(map(int, worst)),
    )
