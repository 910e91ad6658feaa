"""What would go wrong on a server, found by reading the configurations.

Each rule is a generator of findings; a new one is a function and a row in
the table at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hermes.quiver import _graph, _plans
from hermes.quiver._steps import shapes_fit
from hermes.quiver.config import ModelConfig
from hermes.quiver.ensembles import Ensemble
from hermes.quiver.errors import EnsembleError, StorageFailed
from hermes.quiver.models import Model
from hermes.quiver.platforms import Platform
from hermes.quiver.streaming._parameters import read_memory

__all__ = ("Context", "Finding", "lint")

# Triton's own default.
_IDLE_MICROSECONDS = 1_000_000
# The TensorFlow backend left Triton's containers with this release.
_NO_TENSORFLOW = (25, 3)


@dataclass(frozen=True)
class Finding:
    """Something that will, or may, go wrong.

    Attributes:
        severity: ``"error"`` (it will not work, or give wrong results) or
            ``"warning"``.
        model: Name of the model.
        rule: Name of the rule that found it.
        message: What is wrong.
        cure: What to do.
    """

    severity: str
    model: str
    rule: str
    message: str
    cure: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.model}: {self.message}; {self.cure}"


@dataclass(frozen=True)
class Context:
    """What the rules look at.

    Attributes:
        models: The repository's models.
        sample_rate: Samples of the stream per second [Hz], if known.
        container: Release of Triton's container, (year, month), if known.
        capability: Compute capability of the GPU, such as "8.0", if known.
    """

    models: Mapping[str, Model]
    sample_rate: float | None = None
    container: tuple[int, int] | None = None
    capability: str | None = None
    ensembles: Mapping[str, Ensemble] = field(init=False)

    def __post_init__(self) -> None:
        found = {
            name: model
            for name, model in self.models.items()
            if isinstance(model, Ensemble)
        }
        object.__setattr__(self, "ensembles", found)


def lint(context: Context) -> list[Finding]:
    """Apply all rules; errors come first."""
    found = [finding for rule in _RULES for finding in rule(context)]
    return sorted(found, key=lambda f: (f.severity != "error", f.model))


def _unreadable(context: Context) -> Iterator[Finding]:
    for name, model in context.models.items():
        if model.problem is not None:
            yield Finding(
                "error",
                name,
                "unreadable-config",
                model.problem,
                "mend config.pbtxt, or export the model again",
            )


def _no_version(context: Context) -> Iterator[Finding]:
    for name, model in context.models.items():
        if not model.versions:
            yield Finding(
                "error",
                name,
                "no-version",
                "it has no version, and Triton will not load it",
                "export one, or remove the model",
            )


def _states(context: Context) -> Iterator[tuple[str, ModelConfig, list[Any]]]:
    for name, model in context.models.items():
        states = list(model.config.sequence_batching.state)
        if states:
            yield name, model.config, states


def _swapped_states(context: Context) -> Iterator[Finding]:
    for name, _, states in _states(context):
        by_input = sorted(states, key=lambda s: s.input_name)
        by_output = sorted(states, key=lambda s: s.output_name)
        wrong = [
            f"{a.input_name} with {b.output_name}"
            for a, b in zip(by_input, by_output, strict=True)
            if a.output_name != b.output_name
        ]
        if wrong:
            yield Finding(
                "error",
                name,
                "swapped-states",
                "Triton pairs states by their places in sorted lists of names,"
                f" and would pair {', '.join(wrong)}",
                "name inputs and outputs of states so that both sort alike",
            )


def _no_initial_state(context: Context) -> Iterator[Finding]:
    for name, _, states in _states(context):
        for state in states:
            if not state.initial_state:
                yield Finding(
                    "error",
                    name,
                    "no-initial-state",
                    f"state {state.input_name!r} has no initial_state: the"
                    " first request of a sequence sees uninitialised memory",
                    "add an initial_state with zero_data: true",
                )


def _slots(config: ModelConfig) -> int | None:
    """Sequences that a model serves at a time; None if it keeps no state."""
    if not config.HasField("sequence_batching"):
        return None
    instances = sum(g.count or 1 for g in config.instance_group) or 1
    batching = config.sequence_batching
    if batching.HasField("oldest"):
        return int(instances * batching.oldest.max_candidate_sequences)
    return int(instances * max(1, config.max_batch_size))


def _few_slots(context: Context) -> Iterator[Finding]:
    for name, ensemble in context.ensembles.items():
        slots = {
            step.model_name: _slots(context.models[step.model_name].config)
            for step in ensemble.config.ensemble_scheduling.step
            if step.model_name in context.models
        }
        known = {model: n for model, n in slots.items() if n is not None}
        most = max(known.values(), default=0)
        for model, count in known.items():
            if count < most:
                yield Finding(
                    "warning",
                    model,
                    "few-slots",
                    f"it serves {count} sequences at a time, where other steps"
                    f" of ensemble {name!r} serve {most}: the others wait",
                    "give all stateful steps the same streams_per_gpu",
                )


def _idle_time(context: Context) -> Iterator[Finding]:
    if context.sample_rate is None:
        return
    intervals = {
        name: memory["stride_size"] * memory["batch_size"]
        for name, model in context.models.items()
        if (memory := read_memory(model.config)) is not None
        and memory["kind"] == "snapshotter"
    }
    slowest = max(intervals.values(), default=0) / context.sample_rate
    for name, model in context.models.items():
        batching = model.config.sequence_batching
        if not model.config.HasField("sequence_batching"):
            continue
        idle = batching.max_sequence_idle_microseconds or _IDLE_MICROSECONDS
        if idle < 2e6 * slowest:
            severity = "error" if idle < 1e6 * slowest else "warning"
            yield Finding(
                severity,
                name,
                "short-idle-time",
                f"a sequence is forgotten after {idle / 1e6:g} s without a"
                f" request, but an update comes every {slowest:g} s",
                "raise sequence_batching.max_sequence_idle_microseconds",
            )


def _overtaking(context: Context) -> Iterator[Finding]:
    for name, ensemble in context.ensembles.items():
        models = context.models
        if any(
            step.model_name not in models
            for step in ensemble.config.ensemble_scheduling.step
        ):
            continue
        for before in _graph.before_states(ensemble.config, models):
            batching = models[before].config.dynamic_batching
            if not batching.preserve_ordering:
                yield Finding(
                    "error",
                    before,
                    "overtaking",
                    "its instances may answer out of order, and a stateful"
                    f" model comes after it in ensemble {name!r}",
                    "set dynamic_batching.preserve_ordering, or export the"
                    " ensemble again, which does",
                )


def _tensorflow(context: Context) -> Iterator[Finding]:
    for name, model in context.models.items():
        kind = f"{model.config.platform} {model.config.backend}"
        if "tensorflow" not in kind or context.container is None:
            continue
        if context.container >= _NO_TENSORFLOW:
            year, month = context.container
            yield Finding(
                "error",
                name,
                "no-tensorflow",
                f"Triton {year}.{month:02} has no TensorFlow backend; it left"
                " with 25.03",
                "export the network to ONNX, or serve it with 25.02",
            )


def _engines(context: Context) -> Iterator[Finding]:
    for name, model in context.models.items():
        kind = model.config.platform or model.config.backend
        if kind not in {Platform.TENSORRT, "tensorrt"}:
            continue
        for version in _served(model):
            for found in _plans.problems(
                _provenance(model, version),
                context.container,
                context.capability,
            ):
                said = f"version {version}: {found.message}"
                yield Finding(
                    found.severity, name, found.rule, said, found.cure
                )


def _served(model: Model) -> list[int]:
    """The versions that Triton loads: the latest, if nothing else is said."""
    policy, versions = model.config.version_policy, model.versions
    if policy.HasField("all"):
        return versions
    if policy.HasField("specific"):
        return [n for n in versions if n in policy.specific.versions]
    return versions[-(policy.latest.num_versions or 1) :]


def _provenance(model: Model, version: int) -> bytes | None:
    filename = f"{Platform.TENSORRT.filename}.json"
    try:
        return model.read_version(version, filename)
    except StorageFailed as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def _graphs(context: Context) -> Iterator[Finding]:
    for name, ensemble in context.ensembles.items():
        try:
            _graph.check_complete(ensemble.config, context.models)
        except EnsembleError as error:
            yield Finding(
                "error",
                name,
                "broken-graph",
                str(error),
                "mend the ensemble and export it again",
            )
            continue
        yield from _misfits(name, ensemble.config, context.models)


def _misfits(
    name: str, config: ModelConfig, models: Mapping[str, Model]
) -> Iterator[Finding]:
    """Tensors along the graph that are not what the models take."""
    known: dict[str, tuple[str, tuple[int | None, ...], Any]] = {
        tensor: (f"input {tensor!r}", shape, dtype)
        for tensor, (shape, dtype) in config.shapes("input").items()
    }
    for label, step in _graph.ordered(config).items():
        model = models[step.model_name]
        for tensor, source in step.input_map.items():
            wanted = model.inputs.get(tensor)
            if wanted is None:
                yield _misfit(name, f"{label} has no input {tensor!r}")
                continue
            where, shape, dtype = known.get(source, ("", wanted.shape, None))
            if where and not (
                dtype == wanted.dtype and shapes_fit(shape, wanted.shape)
            ):
                yield _misfit(
                    name,
                    f"{where} gives {dtype}{list(shape)}, but {label}/{tensor}"
                    f" takes {wanted.dtype}{list(wanted.shape)}",
                )
        for tensor, key in step.output_map.items():
            given = model.outputs.get(tensor)
            if given is None:
                yield _misfit(name, f"{label} has no output {tensor!r}")
            else:
                known[key] = (f"{label}/{tensor}", given.shape, given.dtype)


def _misfit(name: str, message: str) -> Finding:
    cure = "export the models so that they fit, then the ensemble"
    return Finding("error", name, "misfit", message, cure)


_RULES: tuple[Callable[[Context], Iterator[Finding]], ...] = (
    _unreadable,
    _no_version,
    _swapped_states,
    _no_initial_state,
    _few_slots,
    _idle_time,
    _overtaking,
    _tensorflow,
    _engines,
    _graphs,
)
