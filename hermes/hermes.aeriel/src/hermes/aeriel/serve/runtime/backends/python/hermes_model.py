"""What Triton calls, whichever framework runs the model.

General layout; these files know nothing of the rest of hermes. They are
beside Triton's own module for Python, where every stub looks for modules:
    hermes_states.py         pure: Triton's implicit states
    hermes_configuration.py  pure: configurations, and graphs that fit them
    hermes_tensors.py        Triton's tensors as arrays
    hermes_model.py          what Triton calls

A backend is a folder with a runner, which takes and gives arrays, and a
model.py, which says so.

Requests run one by one, each exactly as an offline run of the same arrays
would, so that results are equal bit by bit however Triton batches them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from hermes_configuration import (  # type: ignore[import-not-found]
    TensorInfo,
    auto_complete,
    check_graph,
)
from hermes_states import (  # type: ignore[import-not-found]
    Array,
    Arrays,
    LoadError,
    RequestError,
    SequenceStates,
    read_states,
)
from hermes_tensors import (  # type: ignore[import-not-found]
    check_types,
    from_triton,
    to_triton,
)

__all__ = ("Model", "Runner")

_START = 1
_END = 2

# Triton's own default.
_IDLE_MICROSECONDS = 1_000_000

# Triton refuses requests of sequences that were idle for too long, counted
# from when a request arrives. We see requests when they run, so a state must
# outlast the time that the sequence's next request may have spent in a queue.
_QUEUE_SECONDS = 10.0


class Runner(Protocol):
    """A model's file, loaded: named arrays in, named arrays out."""

    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]

    def run(self, outputs: Sequence[str], feeds: Arrays) -> Sequence[Array]:
        """Run once.

        Args:
            outputs: Names of what is wanted, in this order.
            feeds: The inputs, by name.

        Raises:
            RequestError: If the arrays are not what the model takes.
        """


class MakeRunner(Protocol):
    """Load a model's file, as its configuration says."""

    def __call__(self, file: Path, config: Mapping[str, Any]) -> Runner: ...


class Model:
    """One instance of one model; a backend is this with a runner.

    Attributes:
        make_runner: Loads the model's file; raises LoadError if it cannot.
        filename: The file's name, unless the configuration has another.
        keeps_states: Whether Triton's own backend knows implicit states.
    """

    make_runner: MakeRunner
    filename: str
    keeps_states = True

    @classmethod
    def auto_complete_config(cls, auto_complete_model_config: Any) -> Any:
        """Add to a short configuration what the graph says.

        Args:
            auto_complete_model_config: The configuration, to be changed.
        """
        config = auto_complete_model_config.as_dict()
        if config["input"] and config["output"]:
            return auto_complete_model_config
        graph = cls.make_runner(_file_of_this_stub(), config)
        added = auto_complete(config, graph.inputs, graph.outputs)
        auto_complete_model_config.set_max_batch_size(added["max_batch_size"])
        if added["dynamic_batching"]:
            auto_complete_model_config.set_dynamic_batching()
        # Not add_input() and add_output(), which know of no reshape.
        config["input"] += added["input"]
        config["output"] += added["output"]
        return auto_complete_model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model.

        Args:
            args: What Triton says of the model and of this instance.
        """
        config = json.loads(args["model_config"])
        directory = Path(args["model_repository"])
        filename = config.get("default_model_filename") or self.filename
        specs = read_states(config, directory)
        if specs and not self.keeps_states:
            raise LoadError(
                f"state '{specs[0].input_name}' is an implicit state, which "
                f"Triton has not for a {filename}; export the model to ONNX"
            )
        self._graph = self.make_runner(
            directory / args["model_version"] / filename, config
        )
        check_graph(config, self._graph.inputs, self._graph.outputs)
        check_types([*self._graph.inputs, *self._graph.outputs])
        batching = config.get("sequence_batching")
        self._is_sequential = bool(batching)
        self._states = _make_states(specs, batching) if specs else None
        self._hidden = {spec.input_name for spec in specs}
        self._state_outputs = [spec.output_name for spec in specs]
        self._input_types = {
            info.name: info.data_type for info in self._graph.inputs
        }
        self._outputs = [entry["name"] for entry in config["output"]]
        self._scalar_shapes = {
            entry["name"]: entry["dims"]
            for entry in config["output"]
            if not entry.get("reshape")
        }

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request, a bad one with an error.

        Args:
            requests: A batch of requests, as Triton made it.
        """
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            if self._is_padding(request):
                return pb_utils.InferenceResponse([])
            return self._run(request)
        except RequestError as error:
            code, message = pb_utils.TritonError.INVALID_ARG, str(error)
        except Exception as error:  # noqa: BLE001 - others go on
            code, message = pb_utils.TritonError.INTERNAL, repr(error)
        return pb_utils.InferenceResponse(
            error=pb_utils.TritonError(message, code)
        )

    def _is_padding(self, request: Any) -> bool:
        """Whether Triton fills an empty slot of the direct strategy."""
        return self._is_sequential and request.correlation_id() in (0, "")

    def _run(self, request: Any) -> Any:
        wanted = request.requested_output_names()
        names = [name for name in self._outputs if name in wanted]
        feeds = {
            name: from_triton(tensor, self._input_types[name])
            for tensor in request.inputs()
            if (name := tensor.name()) not in self._hidden
        }
        if self._states is None:
            arrays = self._graph.run(names, feeds)
            results = dict(zip(names, arrays, strict=True))
        else:
            results = self._run_stateful(self._states, request, names, feeds)
        return pb_utils.InferenceResponse(
            [self._tensor(name, results[name]) for name in names]
        )

    def _run_stateful(
        self,
        states: SequenceStates,
        request: Any,
        names: list[str],
        feeds: Arrays,
    ) -> Arrays:
        flags = request.flags()
        sequence_id = request.correlation_id()
        try:
            feeds |= states.enter(sequence_id, start=bool(flags & _START))
            every = [*dict.fromkeys((*names, *self._state_outputs))]
            arrays = self._graph.run(every, feeds)
            results = dict(zip(every, arrays, strict=True))
            states.commit(sequence_id, results)
        finally:
            if flags & _END:
                states.leave(sequence_id)
        return results

    def _tensor(self, name: str, array: Array) -> Any:
        if array.ndim == 0 and name in self._scalar_shapes:
            array = array.reshape(self._scalar_shapes[name])
        return to_triton(name, array)


def _make_states(
    specs: Sequence[Any], batching: Mapping[str, Any]
) -> SequenceStates:
    idle = int(batching.get("max_sequence_idle_microseconds") or 0)
    seconds = (idle or _IDLE_MICROSECONDS) / 1e6
    return SequenceStates(specs, seconds + _QUEUE_SECONDS)


def _file_of_this_stub() -> Path:
    """Return the model's file.

    Triton tells it to instances only, not to the static method that completes
    configurations; but it starts the stub with it as the first argument.
    """
    arguments = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    return Path(arguments[1].decode())
