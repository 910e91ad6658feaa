"""The graph that an ensemble's configuration describes.

The configuration is the only record of the graph: steps with an
``input_map`` and an ``output_map`` from the model's tensors to names that
the ensemble gives them. Functions here read and edit those maps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from hermes.quiver.config import ModelConfig
from hermes.quiver.errors import EnsembleError
from hermes.quiver.platforms import Platform

if TYPE_CHECKING:
    from hermes.quiver.models import ExposedTensor, Model

__all__ = (
    "LATEST",
    "add_step",
    "ancestors",
    "before_states",
    "check_complete",
    "check_unfed",
    "connect",
    "feed",
    "labels",
    "name_output",
    "ordered",
    "to_mermaid",
    "to_text",
)

LATEST = -1  # Triton's number for the latest version


def feed(
    config: ModelConfig,
    tensor: ExposedTensor,
    name: str,
    version: int | None = None,
) -> None:
    """Feed a model's input from the ensemble's tensor ``name``."""
    check_unfed(config, tensor)
    _step(config, tensor, version).input_map[tensor.name] = name


def check_unfed(config: ModelConfig, tensor: ExposedTensor) -> None:
    """Refuse an input that something feeds already.

    Raises:
        EnsembleError: If it is fed.
    """
    steps = _steps_of(config, tensor.model.name)
    if tensor.step < len(steps):
        source = steps[tensor.step].input_map.get(tensor.name)
        if source is not None:
            msg = (
                f"{tensor} is fed by {source!r} already; an input is fed once:"
                " begin another ensemble, or run the model again, with"
                " add_step"
            )
            raise EnsembleError(msg)


def connect(
    config: ModelConfig,
    outbound: ExposedTensor,
    inbound: ExposedTensor,
    key: str | None,
) -> None:
    """Feed an output into an input."""
    check_unfed(config, inbound)
    current = _step(config, outbound).output_map.get(outbound.name)
    default = str(outbound).replace("/", ".")
    if key is None:
        name = current or default
    elif current in {None, key, default}:
        name = key
    else:
        msg = (
            f"{outbound} is named {current!r} already; leave key=None to"
            " feed it further under that name"
        )
        raise EnsembleError(msg)
    _name(config, outbound, name)
    feed(config, inbound, name)


def name_output(
    config: ModelConfig,
    tensor: ExposedTensor,
    name: str,
    version: int | None = None,
) -> None:
    """Call a model's output by the name of the ensemble's output.

    Raises:
        EnsembleError: If it is an output of the ensemble already.
    """
    step = _step(config, tensor, version)
    current = step.output_map.get(tensor.name)
    if current in {output.name for output in config.output}:
        msg = f"{tensor} is the ensemble's output {current!r} already"
        raise EnsembleError(msg)
    _name(config, tensor, name)


def _name(config: ModelConfig, tensor: ExposedTensor, name: str) -> None:
    """Name a model's output, also where it is already consumed."""
    steps = config.ensemble_scheduling.step
    taken = _produced(config) | {tensor.name for tensor in config.input}
    output_map = _step(config, tensor).output_map
    current = output_map.get(tensor.name)
    if name == current:
        return
    if name in taken:
        msg = f"the ensemble has a tensor {name!r} already; give another key"
        raise EnsembleError(msg)
    output_map[tensor.name] = name
    for step in steps:
        for inbound, source in step.input_map.items():
            if current is not None and source == current:
                step.input_map[inbound] = name


def add_step(config: ModelConfig, name: str, version: int | None) -> int:
    """Run a model once more; returns which of its steps that is."""
    config.ensemble_scheduling.step.add(
        model_name=name, model_version=version or LATEST
    )
    return len(_steps_of(config, name)) - 1


def _steps_of(config: ModelConfig, model: str) -> list[Any]:
    steps = config.ensemble_scheduling.step
    return [step for step in steps if step.model_name == model]


def _step(
    config: ModelConfig, tensor: ExposedTensor, version: int | None = None
) -> Any:
    """The step that has this tensor, added if it is the model's first."""
    name = tensor.model.name
    if tensor.step == 0 and not _steps_of(config, name):
        add_step(config, name, version)
    steps = _steps_of(config, name)
    if tensor.step >= len(steps):
        msg = f"{tensor} belongs to a step that this ensemble does not have"
        raise EnsembleError(msg)
    _set_version(steps[tensor.step], version)
    return steps[tensor.step]


def _set_version(step: Any, version: int | None) -> None:
    if version is None or version == step.model_version:
        return
    if step.model_version != LATEST:
        msg = (
            f"the ensemble runs version {step.model_version} of"
            f" {step.model_name!r} already; it cannot run version {version}"
        )
        raise EnsembleError(msg)
    step.model_version = version


def _produced(config: ModelConfig) -> set[str]:
    """The tensors that steps give."""
    return {
        tensor
        for step in config.ensemble_scheduling.step
        for tensor in step.output_map.values()
    }


def ancestors(config: ModelConfig, names: Collection[str]) -> set[str]:
    """These tensors, and all that they depend on."""
    found: set[str] = set()
    pending = {*names}
    while pending:
        found |= pending
        pending = {
            source
            for step in config.ensemble_scheduling.step
            if pending & {*step.output_map.values()}
            for source in step.input_map.values()
        } - found
    return found


def before_states(
    config: ModelConfig, models: Mapping[str, Model]
) -> set[str]:
    """The stateless models whose outputs a stateful one depends on."""
    stateful = {
        name
        for name, model in models.items()
        if model.config.HasField("sequence_batching")
    }
    steps = config.ensemble_scheduling.step
    taken = {
        source
        for step in steps
        if step.model_name in stateful
        for source in step.input_map.values()
    }
    needed = ancestors(config, taken)
    return {
        step.model_name
        for step in steps
        if needed & {*step.output_map.values()}
        and step.model_name not in stateful
        and models[step.model_name].config.platform != Platform.ENSEMBLE
    }


def labels(config: ModelConfig) -> list[str]:
    """What each step is called: its model's name, numbered if repeated."""
    seen: dict[str, int] = {}
    names = []
    for step in config.ensemble_scheduling.step:
        number = seen[step.model_name] = seen.get(step.model_name, 0) + 1
        name = step.model_name
        names.append(name if number == 1 else f"{name}#{number}")
    return names


def ordered(config: ModelConfig) -> dict[str, Any]:
    """The steps by their labels, each after those that feed it.

    Raises:
        EnsembleError: If there is no such order: a tensor that nothing
            produces, or steps that wait for each other.
    """
    steps = list(config.ensemble_scheduling.step)
    names = labels(config)
    known = {tensor.name for tensor in config.input}
    produced = known | _produced(config)
    for name, step in zip(names, steps, strict=True):
        for tensor, source in step.input_map.items():
            if source not in produced:
                msg = f"step {name!r}: nothing produces {source!r} ({tensor})"
                raise EnsembleError(msg)
    found: dict[str, Any] = {}
    waiting = dict(zip(names, steps, strict=True))
    while waiting:
        ready = [
            name
            for name, step in waiting.items()
            if known.issuperset(step.input_map.values())
        ]
        if not ready:
            msg = f"steps {[*waiting]} wait for each other in a circle"
            raise EnsembleError(msg)
        for name in ready:
            found[name] = waiting.pop(name)
            known |= {*found[name].output_map.values()}
    return found


def check_complete(config: ModelConfig, models: Mapping[str, Model]) -> None:
    """Refuse a graph that Triton could not load, or that is half useless.

    Raises:
        EnsembleError: If it has no inputs or outputs, a step's model is
            missing or has no version, nothing feeds an input, nothing uses
            a step or an input, or steps wait for each other.
    """
    if not config.input or not config.output:
        msg = (
            f"ensemble {config.name!r} has {len(config.input)} inputs and"
            f" {len(config.output)} outputs; it needs one of each at least"
        )
        raise EnsembleError(msg)
    steps = config.ensemble_scheduling.step
    for name, step in zip(labels(config), steps, strict=True):
        _check_step(name, step, models)
    ordered(config)
    _check_used(config)


def _check_step(name: str, step: Any, models: Mapping[str, Model]) -> None:
    version = step.model_version
    if step.model_name not in models:
        msg = f"step {name!r}: the repository has no such model any more"
        raise EnsembleError(msg)
    model = models[step.model_name]
    versions = model.versions  # asks the storage
    if not versions or version not in {LATEST, *versions}:
        wanted = "a version" if version == LATEST else f"version {version}"
        msg = f"step {name!r}: {wanted} must be exported before the ensemble"
        raise EnsembleError(msg)
    unfed = [i for i in model.inputs if i not in step.input_map]
    if unfed:
        msg = f"step {name!r}: nothing feeds its inputs {unfed}"
        raise EnsembleError(msg)


def _check_used(config: ModelConfig) -> None:
    """Refuse steps and inputs on which no output depends."""
    produced = _produced(config)
    missing = [o.name for o in config.output if o.name not in produced]
    if missing:
        msg = f"no step gives the ensemble's outputs {missing}"
        raise EnsembleError(msg)
    needed = ancestors(config, {output.name for output in config.output})
    steps = config.ensemble_scheduling.step
    for name, step in zip(labels(config), steps, strict=True):
        if not needed & {*step.output_map.values()}:
            msg = f"step {name!r}: no output of the ensemble depends on it"
            raise EnsembleError(msg)
    unused = [i.name for i in config.input if i.name not in needed]
    if unused:
        msg = f"no output of the ensemble depends on its inputs {unused}"
        raise EnsembleError(msg)


def _edges(config: ModelConfig) -> list[tuple[str, str, str]]:
    """What leads where, and the tensor's name; "" stands for the ensemble."""
    steps = config.ensemble_scheduling.step
    named = list(zip(labels(config), steps, strict=True))
    producer = {
        tensor: name
        for name, step in named
        for tensor in step.output_map.values()
    }
    edges = [
        (producer.get(source, ""), name, source)
        for name, step in named
        for source in step.input_map.values()
    ]
    return edges + [
        (producer.get(o.name, ""), "", o.name) for o in config.output
    ]


def to_text(config: ModelConfig) -> str:
    """The graph, a line per tensor and step that takes it."""
    lines = [
        f"  {source or '(input)'} --{tensor}--> {target or '(output)'}"
        for source, target, tensor in _edges(config)
    ]
    return "\n".join([f"ensemble {config.name}", *lines])


def to_mermaid(config: ModelConfig) -> str:
    """The graph as a Mermaid flow chart."""
    lines = ["flowchart LR"]
    # Mermaid's own names must be plain: number the nodes.
    nodes = {name: f"s{i}" for i, name in enumerate(labels(config))}
    lines += [f'    {node}["{name}"]' for name, node in nodes.items()]
    for i, (source, target, tensor) in enumerate(_edges(config)):
        begin = nodes.get(source) or f'in{i}(["{tensor}"])'
        end = nodes.get(target) or f'out{i}(["{tensor}"])'
        arrow = f'-- "{tensor}" -->' if source and target else "-->"
        lines.append(f"    {begin} {arrow} {end}")
    return "\n".join(lines)
