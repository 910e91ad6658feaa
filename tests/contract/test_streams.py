"""What quiver writes into a configuration, aeriel reads; no server."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hermes.aeriel.client._describe import describe, steps
from hermes.aeriel.specs import ModelSpec, StreamSpec
from hermes.quiver import Model, ModelRepository, Platform


def add_network(
    repository: ModelRepository, channels: list[int | None], kernel_size: int
) -> Model:
    """A network that averages each of its inputs."""
    shapes = {
        f"x{i}": ["b", kernel_size] if c is None else ["b", c, kernel_size]
        for i, c in enumerate(channels)
    }
    nodes, inputs, outputs = [], [], []
    for name, shape in shapes.items():
        nodes.append(
            helper.make_node(
                "ReduceMean", [name], [f"mean_{name}"], axes=[-1], keepdims=0
            )
        )
        value = helper.make_tensor_value_info
        inputs.append(value(name, TensorProto.FLOAT, shape))
        outputs.append(value(f"mean_{name}", TensorProto.FLOAT, shape[:-1]))
    graph = helper.make_graph(nodes, "mean", inputs, outputs)
    opset = [helper.make_opsetid("", 13)]
    model = repository.add("network", Platform.ONNX)
    model.export_version(
        helper.make_model(graph, opset_imports=opset, ir_version=8)
    )
    return model


def read(model: Model) -> ModelSpec:
    """What a client would make of the configuration on disk."""
    text = ModelRepository(model.repository.root).models[model.name].config
    return describe(text.to_dict(), None, is_stateful=True)


@settings(max_examples=40, deadline=None)
@given(
    channels=st.lists(
        st.one_of(st.none(), st.integers(1, 30)), min_size=1, max_size=4
    ),
    kernel_size=st.integers(1, 5000),
    batch_size=st.integers(1, 20),
    data=st.data(),
)
def test_a_client_reads_what_an_ensemble_streams(
    tmp_path_factory: pytest.TempPathFactory,
    channels: list[int | None],
    kernel_size: int,
    batch_size: int,
    data: st.DataObject,
) -> None:
    stride_size = data.draw(st.integers(1, kernel_size))
    repository = ModelRepository(tmp_path_factory.mktemp("models"))
    network = add_network(repository, channels, kernel_size)
    ensemble = repository.add("ensemble", Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(
        list(network.inputs.values()), stride_size, batch_size
    )
    for output in network.outputs.values():
        ensemble.add_output(output)
    ensemble.export_version(None)

    spec = read(ensemble)

    stream = spec.stream
    assert isinstance(stream, StreamSpec)
    (entry,) = stream.inputs.values()
    assert spec.inputs[entry.name].shape == (
        1,
        sum(c or 1 for c in channels),
        entry.update_size,
    )
    assert entry.update_size == stride_size * batch_size
    assert entry.snapshot_size == kernel_size
    assert list(entry.tensors.values()) == channels
    assert list(spec.states) == [f"network/x{i}" for i in range(len(channels))]
    assert set(stream.outputs) == set(spec.outputs)
    assert stream.size == batch_size
    # kernel number n ends after (n + 1) strides: full from there on
    assert stream.num_warmup * stride_size < kernel_size
    assert (stream.num_warmup + 1) * stride_size >= kernel_size
    replayed = stream.replay_updates * entry.update_size
    assert kernel_size <= replayed < kernel_size + entry.update_size
    assert steps(ensemble.config.to_dict()) == {
        "snapshotter": None,
        "network": None,
    }
    states = ensemble.config.parameters["states"].string_value
    assert states.split(",") == list(spec.states)


def test_batch_axes_are_read_as_they_are_declared(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path)
    network = add_network(repository, [2], 16)
    for max_batch_size, shape in ((0, (None, 2, 16)), (8, (None, 2, 16))):
        other = repository.add("other", Platform.ONNX, force=True)
        other.config.max_batch_size = max_batch_size
        path = tmp_path / "network" / "1" / "model.onnx"
        other.export_version(onnx.load(path))
        assert read(other).inputs["x0"].shape == shape
        assert other.inputs["x0"].shape == shape
    assert network.inputs["x0"].shape == (None, 2, 16)


def test_the_documented_example_is_one(tmp_path: Path) -> None:
    """ARCHITECTURE.md shows the parameter: a client must accept it."""
    text = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()
    example = text.split("```json\n")[1].split("```")[0]
    config = {
        "name": "ensemble",
        "input": [
            {
                "name": "snapshot_update",
                "data_type": "TYPE_FP32",
                "dims": ["1", "2", "512"],
            }
        ],
        "parameters": {
            "hermes.stream": {"string_value": json.dumps(json.loads(example))}
        },
    }
    spec = describe(config, None, is_stateful=True)
    assert spec.stream is not None
    assert spec.stream.replay_updates == 16

    repository = ModelRepository(tmp_path)
    network = add_network(repository, [2], 8192)
    ensemble = repository.add("ensemble", Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(network.inputs["x0"], 512)
    ensemble.add_output(network.outputs["mean_x0"])
    ensemble.export_version(None)
    written = json.loads(
        ensemble.config.parameters["hermes.stream"].string_value
    )
    documented = json.loads(
        example.replace("detector/strain", "network/x0").replace(
            '"score"', '"mean_x0"'
        )
    )
    assert written == documented
