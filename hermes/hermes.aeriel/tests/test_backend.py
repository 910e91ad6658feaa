"""The onnxruntime backend's own parts, without Triton.

What Triton's Python interface is needed for runs on a real server, in
``tests/integration/test_server_backend.py``.
"""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hermes.aeriel.serve._manifest import SOURCES


def backend(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    for folder in ("onnxruntime", "python"):
        monkeypatch.syspath_prepend(SOURCES / "backends" / folder)
    return importlib.import_module(name)


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return backend(monkeypatch, "hermes_states")


@pytest.fixture
def configurations(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return backend(monkeypatch, "hermes_configuration")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return backend(monkeypatch, "hermes_graph")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sequences(states: ModuleType, clock: Clock) -> Any:
    specs = [
        states.StateSpec("a", "new_a", np.zeros(2)),
        states.StateSpec("b", "new_b", np.ones(1)),
    ]
    return states.SequenceStates(specs, 10.0, clock)


def values(found: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: array.tolist() for name, array in found.items()}


INITIAL = {"a": [0.0, 0.0], "b": [1.0]}
OUTPUTS = {"new_a": np.full(2, 5.0), "new_b": np.full(1, 6.0), "y": 0}
KEPT = {"a": [5.0, 5.0], "b": [6.0]}


def test_a_sequence_starts_with_the_initial_states(sequences: Any) -> None:
    assert values(sequences.enter(1, start=True)) == INITIAL


def test_outputs_become_the_next_inputs(sequences: Any) -> None:
    sequences.enter("one", start=True)
    sequences.commit("one", OUTPUTS)
    assert values(sequences.enter("one", start=False)) == KEPT


def test_a_sequence_that_fails_keeps_its_states(sequences: Any) -> None:
    sequences.enter(1, start=True)
    sequences.commit(1, OUTPUTS)
    sequences.enter(1, start=False)
    assert values(sequences.enter(1, start=False)) == KEPT
    sequences.enter(1, start=True)
    assert values(sequences.enter(1, start=False)) == INITIAL


def test_ids_of_both_kinds_are_apart(sequences: Any) -> None:
    sequences.enter(7, start=True)
    sequences.commit(7, OUTPUTS)
    assert values(sequences.enter("7", start=True)) == INITIAL
    assert values(sequences.enter(7, start=False)) == KEPT


def test_an_unknown_sequence_must_start(
    sequences: Any, states: ModuleType
) -> None:
    with pytest.raises(states.RequestError, match=r"sequence 9 .* START flag"):
        sequences.enter(9, start=False)


def test_a_sequence_that_ended_is_forgotten(
    sequences: Any, states: ModuleType
) -> None:
    sequences.enter(1, start=True)
    sequences.leave(1)
    sequences.leave(1)
    assert len(sequences) == 0
    with pytest.raises(states.RequestError, match="START"):
        sequences.enter(1, start=False)


def test_idle_sequences_are_dropped_and_used_ones_are_not(
    sequences: Any, clock: Clock
) -> None:
    for sequence_id in range(1000):
        sequences.enter(sequence_id, start=True)
    for _ in range(3):
        clock.now += 9
        sequences.enter(5, start=False)
    assert len(sequences) == 1


def config(**state: Any) -> dict[str, Any]:
    fields = {
        "input_name": "s",
        "output_name": "t",
        "data_type": "TYPE_INT16",
        "dims": [2, 3],
        **state,
    }
    return {
        "max_batch_size": 0,
        "input": [],
        "output": [],
        "sequence_batching": {"state": [fields]},
    }


def initial(**fields: Any) -> list[dict[str, Any]]:
    return [{"data_type": "TYPE_INT16", "dims": ["2", "3"], **fields}]


def test_states_start_with_zeros(states: ModuleType, tmp_path: Path) -> None:
    for given in ([], initial(zero_data=True)):
        (spec,) = states.read_states(config(initial_state=given), tmp_path)
        assert spec.initial.dtype == np.int16
        np.testing.assert_array_equal(spec.initial, np.zeros((2, 3)))


def test_states_of_a_batching_model_have_a_batch_axis(
    states: ModuleType, tmp_path: Path
) -> None:
    batching = {**config(dims=[-1, 3]), "max_batch_size": 8}
    (spec,) = states.read_states(batching, tmp_path)
    assert spec.initial.shape == (1, 1, 3)


def test_states_start_from_their_file(
    states: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "initial_state").mkdir()
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    (tmp_path / "initial_state" / "start").write_bytes(array.tobytes())
    given = initial(data_file="start")
    (spec,) = states.read_states(config(initial_state=given), tmp_path)
    np.testing.assert_array_equal(spec.initial, array)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"data_type": "TYPE_STRING"}, "state 's' is TYPE_STRING"),
        ({"data_type": "TYPE_BF16"}, "state 's' is TYPE_BF16"),
        (
            {"initial_state": initial(data_type="TYPE_FP32")},
            "'s' is TYPE_INT16, but its initial state is TYPE_FP32",
        ),
        ({"initial_state": initial(data_file="gone")}, "No such file"),
        (
            {"initial_state": initial(data_file="short")},
            r"short has 5 bytes, shape \[2, 3\] of int16 needs 12",
        ),
    ],
)
def test_states_that_cannot_be_kept_are_refused(
    states: ModuleType, tmp_path: Path, state: dict[str, Any], expected: str
) -> None:
    (tmp_path / "initial_state").mkdir()
    (tmp_path / "initial_state" / "short").write_bytes(b"12345")
    with pytest.raises(states.LoadError, match=expected):
        states.read_states(config(**state), tmp_path)


def entry(name: str, *dims: int, dtype: str = "TYPE_FP32") -> dict[str, Any]:
    return {"name": name, "data_type": dtype, "dims": list(dims)}


EMPTY: dict[str, Any] = {"max_batch_size": 0, "input": [], "output": []}


def infos(
    configurations: ModuleType, *dims: int
) -> tuple[list[Any], list[Any]]:
    return (
        [configurations.TensorInfo("x", "TYPE_FP32", dims)],
        [configurations.TensorInfo("y", "TYPE_FP32", dims)],
    )


def test_a_variable_first_dimension_is_a_batch(
    configurations: ModuleType,
) -> None:
    added = configurations.auto_complete(EMPTY, *infos(configurations, -1, 4))
    assert added == {
        "max_batch_size": 4,
        "dynamic_batching": True,
        "input": [entry("x", 4)],
        "output": [entry("y", 4)],
    }


def test_a_batch_of_numbers_is_reshaped(configurations: ModuleType) -> None:
    added = configurations.auto_complete(EMPTY, *infos(configurations, -1))
    number = {**entry("x", 1), "reshape": {"shape": []}}
    assert added["input"] == [number]


def test_states_and_controls_are_not_filled_in(
    configurations: ModuleType,
) -> None:
    batching = {
        "state": [{"input_name": "x", "output_name": "y"}],
        "control_input": [{"name": "z"}],
    }
    control = configurations.TensorInfo("z", "TYPE_FP32", (1, 4))
    inputs, outputs = infos(configurations, 1, 4)
    given = {**EMPTY, "sequence_batching": batching}
    added = configurations.auto_complete(given, [*inputs, control], outputs)
    assert (added["input"], added["output"]) == ([], [])


def test_fixed_dimensions_are_no_batch(configurations: ModuleType) -> None:
    added = configurations.auto_complete(EMPTY, *infos(configurations, 1, -1))
    assert added == {
        "max_batch_size": 0,
        "dynamic_batching": False,
        "input": [entry("x", 1, -1)],
        "output": [entry("y", 1, -1)],
    }


def test_what_is_configured_is_kept(configurations: ModuleType) -> None:
    given = {
        "max_batch_size": 2,
        "input": [entry("x", 4)],
        "output": [],
        "sequence_batching": {"direct": {}},
    }
    added = configurations.auto_complete(given, *infos(configurations, -1, 4))
    assert added["max_batch_size"] == 2
    assert added["input"] == []
    assert not added["dynamic_batching"]


def test_a_batch_size_that_the_graph_cannot_take_is_refused(
    configurations: ModuleType, states: ModuleType
) -> None:
    with pytest.raises(states.LoadError, match="max_batch_size is 2, but the"):
        configurations.auto_complete(
            {**EMPTY, "max_batch_size": 2}, *infos(configurations, 1, 4)
        )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"input": [entry("x", 4), entry("z", 4)]}, "no input 'z'; it has x"),
        ({"output": [entry("z", 4)]}, "no output 'z'; it has y"),
        ({"input": []}, "graph's input 'x' is not in the configuration"),
        ({"input": [entry("x", 5)]}, r"shape \[5\] in the .*, \[4\] in the g"),
        ({"input": [entry("x", 4, 1)]}, r"shape \[4, 1\]"),
        ({"max_batch_size": 2}, r"shape \[-1, 4\] .* \(max_batch_size 2\)"),
        (
            {"input": [entry("x", 4, dtype="TYPE_FP16")]},
            "'x' is TYPE_FP16 in the configuration, TYPE_FP32 in the graph",
        ),
        (
            {"sequence_batching": {"control_input": [{"name": "START"}]}},
            "no input 'START'",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    configurations: ModuleType,
    states: ModuleType,
    change: dict[str, Any],
    expected: str,
) -> None:
    fits = {
        "max_batch_size": 0,
        "input": [entry("x", 4)],
        "output": [entry("y", 4)],
    }
    configurations.check_graph(fits, *infos(configurations, 4))
    configurations.check_graph(fits, *infos(configurations, -1))
    with pytest.raises(states.LoadError, match=expected):
        configurations.check_graph(
            {**fits, **change}, *infos(configurations, 4)
        )


def test_a_reshaped_tensor_is_compared_as_the_graph_sees_it(
    configurations: ModuleType,
) -> None:
    reshaped = {"reshape": {"shape": ["2", "2"]}}
    given = {
        "max_batch_size": 0,
        "input": [entry("x", 4) | reshaped],
        "output": [entry("y", 4) | reshaped],
    }
    configurations.check_graph(given, *infos(configurations, 2, 2))


def save(path: Path, dtype: int = TensorProto.FLOAT) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "copy",
        [helper.make_tensor_value_info("x", dtype, ["n", 2])],
        [helper.make_tensor_value_info("y", dtype, ["n", 2])],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def test_a_graph_says_what_it_takes(
    graphs: ModuleType, tmp_path: Path
) -> None:
    graph = graphs.Graph(save(tmp_path / "model.onnx"), EMPTY)
    assert graph.inputs == [graphs.TensorInfo("x", "TYPE_FP32", (-1, 2))]
    x = np.ones((3, 2), np.float32)
    (y,) = graph.run(["y"], {"x": x})
    np.testing.assert_array_equal(y, x)


def test_a_directory_holds_the_graph(
    graphs: ModuleType, tmp_path: Path
) -> None:
    save(tmp_path / "net.onnx" / "model.onnx")
    graphs.Graph(tmp_path / "net.onnx", EMPTY)


def test_options_of_the_configuration_reach_the_session(
    graphs: ModuleType, tmp_path: Path
) -> None:
    given = {
        **EMPTY,
        "optimization": {"graph": {"level": 1}},
        "parameters": {
            "intra_op_thread_count": {"string_value": "3"},
            "inter_op_thread_count": {"string_value": "2"},
            "execution_mode": {"string_value": "1"},
            "enable_mem_pattern": {"string_value": "0"},
            "enable_mem_arena": {"string_value": "true"},
        },
    }
    graph = graphs.Graph(save(tmp_path / "model.onnx"), given)
    options = graph._session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 2
    assert options.execution_mode.name == "ORT_PARALLEL"
    assert options.graph_optimization_level.name == "ORT_ENABLE_EXTENDED"
    assert not options.enable_mem_pattern
    assert options.enable_cpu_mem_arena


def test_an_option_that_is_no_number_is_refused(
    graphs: ModuleType, states: ModuleType, tmp_path: Path
) -> None:
    given = {"intra_op_thread_count": {"string_value": "many"}}
    path = save(tmp_path / "model.onnx")
    with pytest.raises(states.LoadError, match="must be a count, got 'many'"):
        graphs.Graph(path, {**EMPTY, "parameters": given})


def test_a_file_that_is_no_graph_is_refused(
    graphs: ModuleType, states: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_text("junk")
    with pytest.raises(states.LoadError, match="onnxruntime cannot load"):
        graphs.Graph(tmp_path / "model.onnx", EMPTY)


def test_types_that_triton_lacks_are_refused(
    graphs: ModuleType, states: ModuleType, tmp_path: Path
) -> None:
    path = save(tmp_path / "model.onnx", TensorProto.BFLOAT16)
    with pytest.raises(states.LoadError, match=r"is tensor\(bfloat16\)"):
        graphs.Graph(path, EMPTY)


def test_a_request_that_does_not_fit_is_an_error(
    graphs: ModuleType, states: ModuleType, tmp_path: Path
) -> None:
    graph = graphs.Graph(save(tmp_path / "model.onnx"), EMPTY)
    with pytest.raises(states.RequestError, match="onnxruntime: "):
        graph.run(["y"], {"x": np.ones((1, 3), np.float32)})


def test_text_is_given_as_text(
    graphs: ModuleType, states: ModuleType, tmp_path: Path
) -> None:
    path = save(tmp_path / "model.onnx", TensorProto.STRING)
    graph = graphs.Graph(path, EMPTY)
    words = np.array([["ä".encode(), b"b"]], np.object_)
    (same,) = graph.run(["y"], {"x": words})
    assert same.tolist() == [["ä", "b"]]
    with pytest.raises(states.RequestError, match="input 'x' is not UTF-8"):
        graph.run(["y"], {"x": np.array([[b"\xff", b""]], np.object_)})


def test_configurations_of_triton_are_json(
    configurations: ModuleType,
) -> None:
    """Triton writes 64-bit integers as text in some fields."""
    text = json.dumps({**EMPTY, "input": [entry("x") | {"dims": ["4"]}]})
    given = json.loads(text) | {"output": [entry("y", 4)]}
    configurations.check_graph(given, *infos(configurations, 4))
