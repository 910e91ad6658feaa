"""Streams proved equal to the offline computation, and faults found."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hermes.quiver import ModelRepository, Platform
from hermes.quiver.errors import (
    InvalidInput,
    ModelNotFound,
    UnsupportedExport,
    VerificationFailed,
)
from hermes.quiver.streaming.utils import add_streaming_model

FLOAT = TensorProto.FLOAT


def elementwise(operator: str, inputs: dict, outputs: dict) -> onnx.ModelProto:
    """A graph that applies one operator to each input."""
    nodes = [
        helper.make_node(operator, [x], [y])
        for x, y in zip(inputs, outputs, strict=True)
    ]
    values = [
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in d.items()]
        for d in (inputs, outputs)
    ]
    return helper.make_model(
        helper.make_graph(nodes, "elementwise", *values),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )


def add_network(repository, name, *shapes, operator="Tanh"):
    model = repository.add(name, Platform.ONNX)
    model.export_version(
        elementwise(
            operator,
            {f"x{i}": s for i, s in enumerate(shapes)},
            {f"y{i}": s for i, s in enumerate(shapes)},
        )
    )
    return model


@pytest.fixture
def streamed(repository):
    """An ensemble of a network of one input with 2 x 16 samples."""
    network = add_network(repository, "network", ["b", 2, 16])
    ensemble = repository.add("ensemble", Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(network.inputs["x0"], 4, batch_size=2)
    ensemble.add_output(network.outputs["y0"])
    return ensemble


@settings(max_examples=25, deadline=None)
@given(
    channels=st.lists(
        st.one_of(st.none(), st.integers(1, 3)), min_size=1, max_size=3
    ),
    block=st.integers(1, 4),
    depth=st.integers(1, 5),
    extra=st.integers(0, 3),
    batch_size=st.integers(1, 4),
    divide=st.booleans(),
)
def test_every_stream_equals_its_offline_computation(
    tmp_path_factory, channels, block, depth, extra, batch_size, divide
) -> None:
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    size = block * depth + extra
    network = add_network(
        repository,
        "network",
        *(["b", size] if c is None else ["b", c, size] for c in channels),
    )
    ensemble = repository.add("ensemble", Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(
        list(network.inputs.values()), block, batch_size
    )
    for i, output in enumerate(network.outputs.values()):
        ensemble.add_output(output, key=f"kernels_{i}")
        ensemble.add_streaming_output(
            output,
            block,
            depth,
            name=f"aggregator_{i}",
            divide_by_contributions=divide,
        )
    ensemble.export_version(None, verify=True)
    report = repository.verify_stream(ensemble)
    assert report.is_equal
    assert len(report.outputs) == 2 * len(channels)
    assert all(output.num_valid > 0 for output in report.outputs)


def test_the_report_says_what_was_compared(streamed, repository) -> None:
    streamed.export_version(None)
    report = repository.verify_stream("ensemble")
    # a depth of 2 updates gives 7 updates of 2 predictions
    assert str(report) == (
        "ensemble, 7 updates:\n  y0: 14 compared (11 after warm-up), equal to"
        " the last bit"
    )


def test_a_stream_of_ones_own_can_be_checked(streamed) -> None:
    data = np.random.default_rng(0).standard_normal((2, 80))
    report = streamed.verify_stream({"snapshot_update": data})
    assert report.num_updates == 10
    for wrong, match in (
        ({"x": data}, r"data has \['x'\]; it needs a stream for each of"),
        ({"snapshot_update": data[:1]}, r"must be \(2, time\)"),
        ({"snapshot_update": data[:, 1:]}, "as many whole updates"),
    ):
        with pytest.raises(InvalidInput, match=match):
            streamed.verify_stream(wrong)


def test_a_wrong_snapshotter_is_found(streamed, repository) -> None:
    snapshotter = repository.models["snapshotter"]
    graph = onnx.load_from_string(snapshotter.read_version())
    for tensor in graph.graph.initializer:
        if tensor.name in {"from_4", "to_4"}:  # one sample too late
            (value,) = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(
                    np.array([value + 1]), tensor.name
                )
            )
    snapshotter.export_version(graph)
    with pytest.raises(
        VerificationFailed, match=r"y0: 14 compared .*, 7 differ, most at \("
    ):
        streamed.export_version(None)
    assert streamed.versions == []
    streamed.export_version(None, verify=False)
    assert streamed.versions == [1]


def test_streaming_layers_take_part(repository) -> None:
    network = add_network(repository, "network", ["b", 2, 16])
    state = ["input_total", "output_total"]
    value = helper.make_tensor_value_info
    layer = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Add", ["update", "total"], ["sum"]),
                helper.make_node("Identity", ["sum"], ["next"]),
            ],
            "layer",
            [value(n, FLOAT, [1, 2, 16]) for n in ("update", "total")],
            [value(n, FLOAT, [1, 2, 16]) for n in ("sum", "next")],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    total = add_streaming_model(
        repository, layer, "total", "update", (1, 2, 16), ["total"],
        [(1, 2, 16)], ["sum"],
    )  # fmt: skip
    assert total.config.state_names() == set(state)
    assert list(total.inputs) == ["update"]
    ensemble = repository.add("ensemble", Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(network.inputs["x0"], 4)
    ensemble.pipe(network.outputs["y0"], total.inputs["update"])
    ensemble.add_output(total.outputs["sum"])
    ensemble.export_version(None, verify=True)
    # nobody said how long the layer remembers
    parameter = ensemble.config.parameters["hermes.stream"].string_value
    assert '"replay_updates":null' in parameter


def test_a_stream_that_cannot_be_run_here_is_told(streamed, caplog) -> None:
    streamed.repository.models["network"].config.execute_on(Platform.PYTHON)
    streamed.export_version(None, verify=False)
    assert not caplog.text
    streamed.export_version(None)
    assert "'ensemble' was not compared with what it computes" in caplog.text
    with pytest.raises(UnsupportedExport, match="ONNX models only"):
        streamed.export_version(None, verify=True)


def test_what_does_not_stream_cannot_be_verified(repository) -> None:
    network = add_network(repository, "network", ["b", 2, 16])
    ensemble = repository.add("ensemble", Platform.ENSEMBLE)
    ensemble.add_input(network.inputs["x0"])
    ensemble.add_output(network.outputs["y0"])
    ensemble.export_version(None)
    with pytest.raises(UnsupportedExport, match="must have a streaming input"):
        ensemble.verify_stream()
    with pytest.raises(ModelNotFound, match="no ensemble 'network'"):
        repository.verify_stream("network")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (
            {"state_shapes": []},
            r"1 state_names \(\['s'\]\) but 0 state_shapes",
        ),
        ({"state_names": [], "state_shapes": []}, "at least one"),
        ({"input_shape": (None, 2)}, r"update has shape \(None, 2\); it must"),
        ({"state_dtypes": ["f4", "f4"]}, "2 state_dtypes for 1 states"),
        (
            {"max_batch_size": 4, "input_shape": (None, 2)},
            r"s has shape \(1, 2\); it must have None, then fixed sizes",
        ),
        ({"strategy": "newest"}, "neither direct nor oldest"),
        ({"streams_per_gpu": 0}, "must be positive"),
    ],
)
def test_impossible_layers_are_refused(repository, arguments, match) -> None:
    wanted = {
        "input_shape": (1, 2),
        "state_names": ["s"],
        "state_shapes": [(1, 2)],
        "output_names": ["y"],
        **arguments,
    }
    layer = elementwise("Tanh", {"a": [1, 2]}, {"b": [1, 2]})
    with pytest.raises(ValueError, match=match):
        add_streaming_model(repository, layer, "m", "x", **wanted)
    assert repository.models == {}


def test_a_graph_of_other_tensors_is_refused(repository) -> None:
    layer = elementwise("Tanh", {"a": [1, 2]}, {"b": [1, 2]})
    with pytest.raises(
        InvalidInput, match="has 1 inputs and 1 outputs; needed"
    ):
        add_streaming_model(
            repository, layer, "m", "x", (1, 2), ["s"], [(1, 2)], ["y"]
        )
    assert repository.models == {}
