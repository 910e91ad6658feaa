"""From networks to artifacts, run and compared."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from hermes.quiver import Platform
from hermes.quiver.errors import (
    DtypeMismatch,
    InvalidInput,
    UnsupportedExport,
    VerificationFailed,
)
from hermes.quiver.exporters import find
from hermes.quiver.exporters._compare import compare

torch = pytest.importorskip("torch")


class Network(torch.nn.Module):
    """Dropout and batch norm behave differently while training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(2, 4, 3)
        self.norm = torch.nn.BatchNorm1d(4)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(self.conv(x)).mean(-1))


class Join(torch.nn.Module):
    def forward(self, strain, witness):
        return strain.sum((1, 2)), torch.cat([strain, witness], 1)


def run(path: str, **arrays: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path).run(None, arrays)


def randn(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.fixture
def model(repository):
    return repository.add("network", Platform.ONNX)


@pytest.mark.parametrize("batch", [None, -1])
def test_a_variable_batch_runs_at_any_size(model, batch) -> None:
    network = Network()
    path = model.export_version(
        network, input_shapes={"x": (batch, 2, 64)}, output_names=["y"]
    )
    assert model.inputs["x"].shape == (None, 2, 64)
    assert model.outputs["y"].shape == (None, 4)
    network.eval()
    for size in 1, 2, 7:
        x = randn(size, 2, 64)
        expected = network(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(run(path, x=x)[0], expected, atol=1e-5)


def test_a_fixed_batch_stays_fixed(model) -> None:
    model.export_version(Network(), input_shapes=[(1, 2, 64)])
    assert model.inputs["x"].shape == (1, 2, 64)
    assert model.outputs["output_0"].shape == (1, 4)


def test_the_artifact_is_one_file(model, tmp_path) -> None:
    big = torch.nn.Linear(1024, 1024)
    path = model.export_version(big, input_shapes={"input": (None, 1024)})
    assert [p.name for p in tmp_path.rglob("1/*")] == ["model.onnx"]
    assert (
        not onnx.load(path, load_external_data=False)
        .graph.initializer[0]
        .HasField("data_location")
    )


def test_the_network_is_left_as_it_was(model) -> None:
    network = Network()
    network.norm.eval()
    before = {name: m.training for name, m in network.named_modules()}
    state = {k: v.clone() for k, v in network.state_dict().items()}

    model.export_version(network, input_shapes={"x": (None, 2, 64)})

    assert {n: m.training for n, m in network.named_modules()} == before
    assert all(p.requires_grad for p in network.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name])


def test_several_inputs_and_outputs_keep_names_and_order(model) -> None:
    path = model.export_version(
        Join(),
        input_shapes={"witness": (None, 3, 8), "strain": (None, 2, 8)},
        output_names=["sum", "all"],
    )
    assert list(model.inputs) == ["strain", "witness"]
    assert model.outputs["all"].shape == (None, 5, 8)
    strain, witness = randn(3, 2, 8), randn(3, 3, 8)
    total, joined = run(path, strain=strain, witness=witness)
    np.testing.assert_allclose(total, strain.sum((1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(joined, np.concatenate([strain, witness], 1))


def test_samples_give_shapes_and_dtypes(model) -> None:
    embedding = torch.nn.Embedding(10, 4)
    path = model.export_version(
        embedding, sample_inputs=[np.zeros((1, 5), np.int64)]
    )
    assert model.inputs["input"].shape == (None, 5)
    assert model.inputs["input"].dtype == np.int64
    indices = np.arange(15).reshape(3, 5) % 10
    np.testing.assert_array_equal(
        run(path, input=indices)[0],
        embedding(torch.from_numpy(indices)).detach().numpy(),
    )


def test_a_later_version_takes_the_shapes_of_the_first(model) -> None:
    model.export_version(Network(), input_shapes={"x": (None, 2, 64)})
    model.export_version(Network())
    assert model.versions == [1, 2]


def test_the_opset_can_be_chosen(model) -> None:
    path = model.export_version(
        Network(), input_shapes={"x": (None, 2, 64)}, opset_version=18
    )
    assert onnx.load(path).opset_import[0].version == 18


class Counting(torch.nn.Module):
    def forward(self, x):
        return {"y": x * 2, "n": [len(x)]}


@pytest.mark.parametrize(
    ("network", "arguments", "match"),
    [
        (Network(), {}, r"input_shapes=\{'x': \(None, 2, 8192\)\}"),
        (Network(), {"input_shapes": {"z": (1, 2)}}, r"network takes \['x'\]"),
        (Network(), {"input_shapes": [(1,), (1,)]}, "has 2 entries"),
        (Network(), {"input_shapes": [(1, 3, 64)]}, "does not run on inputs"),
        (
            Network(),
            {"input_shapes": [(2, 2, 64)], "output_names": ["a", "b"]},
            r"output_names=\['a', 'b'\], but the network gives 1",
        ),
        (
            Network(),
            {
                "input_shapes": [(None, 2, 64)],
                "sample_inputs": [np.zeros((2, 2, 65), np.float32)],
            },
            r"shape \(2, 2, 65\), which does not fit",
        ),
        (
            Network(),
            {"input_shapes": [(2, 2, 64)], "fp16": True},
            r"unknown option \['fp16'\]",
        ),
        (Counting(), {"input_shapes": [(2, 2)]}, "returns a int as n.0;"),
        (
            torch.nn.Bilinear(4, 4, 2),
            {"input_shapes": (None, 4)},
            r"an entry for each input.*takes \['input1', 'input2'\]",
        ),
        (
            torch.nn.Bilinear(4, 4, 2),
            {"sample_inputs": torch.ones(2, 4)},
            "sample_inputs has an entry for each input",
        ),
        (Network(), {"input_shapes": [(None, 0)]}, r"\(None, 0\) is no shape"),
        (
            Network(),
            {"input_shapes": np.array([[2, 2, 64]])},
            r"array\(\[\[ 2,  2, 64\]\]\) is no shape of 'x'",
        ),
        (
            Network(),
            {"input_shapes": [(2, 2, 64)], "output_names": 1},
            "output_names=1: give a list of names",
        ),
        (Network(), {"input_shapes": 5}, "input_shapes=5: give a list with"),
        (
            Network(),
            {"sample_inputs": iter([torch.ones(2, 2, 64)])},
            "sample_inputs=<.*>: give a list with an entry for each",
        ),
        (
            Network(),
            {"sample_inputs": [[[1.0, 2.0], [3.0]]]},
            "an example that is no array: .*inhomogeneous",
        ),
        (
            Network(),
            {"sample_inputs": {"x": torch.ones(0, 2, 64)}},
            r"an example of shape \(0, 2, 64\): without a value",
        ),
    ],
)
def test_wrong_descriptions_are_refused(
    model, network, arguments, match
) -> None:
    with pytest.raises(InvalidInput, match=match):
        model.export_version(network, **arguments)
    assert model.versions == []
    assert not model.inputs


class Noisy(torch.nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def test_an_artifact_that_computes_something_else_is_refused(model) -> None:
    with pytest.raises(
        VerificationFailed, match=r"output 'output_0' at batch"
    ):
        model.export_version(Noisy(), input_shapes={"x": (None, 2)})
    assert model.versions == []
    model.export_version(Noisy(), input_shapes={"x": (None, 2)}, verify=False)
    assert model.versions == [1]


def test_an_onnx_graph_is_taken_as_it_is(model, graph) -> None:
    network = graph({"x": ["b", 2, 16]}, {"y": ["b", 2]})
    path = model.export_version(network)
    assert onnx.load(path) == network
    with pytest.raises(InvalidInput, match="input_shapes cannot be used"):
        model.export_version(network, input_shapes={"x": (None, 2, 16)})
    network.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(InvalidInput, match="not a valid ONNX graph"):
        model.export_version(network)


@pytest.mark.parametrize("beside", [False, True])
def test_an_onnx_file_is_a_source(model, graph, tmp_path, beside) -> None:
    network = graph({"x": ["b", 2, 16]}, {"y": ["b", 2]})
    table = onnx.numpy_helper.from_array(randn(64, 64), "table")
    network.graph.initializer.append(table)
    file = tmp_path / "network.onnx"
    onnx.save(
        network,
        file,
        save_as_external_data=beside,
        location="network.data",
    )
    for source in file, str(file):
        path = model.export_version(source)
        loaded = onnx.load(path, load_external_data=False)
        # what was beside the graph is in it
        assert loaded.graph.initializer[0].raw_data == table.raw_data
    if beside:
        (tmp_path / "network.data").unlink()
        with pytest.raises(
            InvalidInput, match=r"network\.onnx cannot be read"
        ):
            model.export_version(file)


@pytest.mark.parametrize("content", [None, b"no graph"])
def test_a_file_without_a_graph_is_refused(model, tmp_path, content) -> None:
    file = tmp_path / "network.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidInput, match="cannot be read as an ONNX graph"):
        model.export_version(file)


def tanh(outputs, *, kind="Tanh", opset=13, domain="", inputs=None):
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node(kind, ["x"], ["y"], domain=domain)],
            "tanh",
            inputs or [onnx.helper.make_tensor_value_info("x", 1, ["b", 2])],
            outputs,
        ),
        opset_imports=[
            onnx.helper.make_opsetid("", opset),
            onnx.helper.make_opsetid("mine", 1),
        ],
        ir_version=8,
    )


def tensor(name="y", shape=("b", 2), dtype=1):
    return onnx.helper.make_tensor_value_info(name, dtype, shape)


SEQUENCE = onnx.helper.make_tensor_sequence_value_info("y", 1, None)


@pytest.mark.parametrize(
    ("network", "error", "match"),
    [
        (tanh([tensor(shape=("b", 3))]), InvalidInput, "contradicts itself"),
        (tanh([tensor(dtype=7)]), InvalidInput, "contradicts itself.*Tanh"),
        (tanh([SEQUENCE]), InvalidInput, "'y' of the ONNX graph is a sequ"),
        (tanh([tensor(shape=None)]), InvalidInput, "the shape of 'y': onnx"),
        (tanh([]), InvalidInput, "has no outputs"),
        (
            tanh([tensor("z")]),
            InvalidInput,
            r"^not a valid ONNX[^\n]*z[^\n]*$",
        ),
        (tanh([tensor()], opset=99), VerificationFailed, "cannot run.*opset"),
        (
            tanh([tensor()], kind="Mine", domain="mine"),
            VerificationFailed,
            r"mine:Mine.*verify=False exports it unchecked",
        ),
    ],
)
def test_graphs_that_no_server_loads_are_refused(
    model, network, error, match
) -> None:
    with pytest.raises(error, match=match):
        model.export_version(network)
    assert model.versions == []


def test_operators_of_ones_own_are_taken_unchecked(model) -> None:
    network = tanh([tensor()], kind="Mine", domain="mine")
    model.export_version(network, verify=False)
    assert model.outputs["y"].shape == (None, 2)


def test_minus_one_is_a_variable_size(model) -> None:
    model.export_version(
        tanh([tensor(shape=(-1, 2))], inputs=[tensor("x", (-1, 2))])
    )
    assert model.inputs["x"].shape == model.outputs["y"].shape == (None, 2)


def test_data_beside_a_graph_has_to_be_there_and_to_fit(
    model, graph, tmp_path
) -> None:
    network = graph({"x": ["b", 2]}, {"y": ["b"]})
    table = onnx.numpy_helper.from_array(randn(64, 64), "table")
    network.graph.initializer.append(table)
    file = tmp_path / "network.onnx"
    onnx.save(network, file, save_as_external_data=True, location="data")
    loaded = onnx.load(file, load_external_data=False)
    with pytest.raises(InvalidInput, match=r"'table' in a file beside it"):
        model.export_version(loaded)
    (tmp_path / "data").write_bytes(b"short")
    with pytest.raises(InvalidInput, match=r"network\.onnx cannot be read"):
        model.export_version(file)
    loaded.graph.initializer[0].dims[:] = [2**15, 2**15]
    file.write_bytes(loaded.SerializeToString())
    with pytest.raises(InvalidInput, match=r"has 4\.3 GB, and ONNX holds 2"):
        model.export_version(file)


def test_a_model_of_a_repository_is_a_source(mean, repository) -> None:
    copy = repository.add("copy", Platform.ONNX)
    copy.export_version(mean)
    assert copy.read_version() == mean.read_version()
    assert copy.inputs["x"].shape == mean.inputs["x"].shape
    other = repository.add("other", Platform.PYTHON)
    with pytest.raises(InvalidInput, match="'other' is python; only a model"):
        copy.export_version(other)
    mean.config.add_state("input_s", "output_s", (1,))
    with pytest.raises(InvalidInput, match="'mean' has states"):
        copy.export_version(mean)


def test_onnx_types_that_triton_lacks_are_refused(model, graph) -> None:
    network = graph({"x": ["b", 2]}, {"y": ["b"]}, onnx.TensorProto.COMPLEX64)
    with pytest.raises(DtypeMismatch, match="ONNX's COMPLEX64"):
        model.export_version(network)


def test_the_table_names_what_it_has(model) -> None:
    exporter = find(Network(), Platform.ONNX)
    assert exporter.__module__ == "hermes.quiver.exporters.torch"
    with pytest.raises(
        UnsupportedExport, match="torch -> ONNX, TORCHSCRIPT, TENSORRT; onnx"
    ):
        model.export_version(lambda x: x, input_shapes=[(1, 2)])


@pytest.mark.parametrize("module", ["model", "file.networks"])
def test_networks_may_be_in_a_module_of_any_name(model, module) -> None:
    mine = type("Mine", (Network,), {"__module__": module})
    model.export_version(mine(), input_shapes={"x": (None, 2, 64)})
    assert model.versions == [1]


def test_outputs_that_only_look_alike_are_refused() -> None:
    from hermes.quiver.exporters.onnx import describe
    from hermes.quiver.verify import open_artifact

    x = onnx.helper.make_tensor_value_info("x", 1, ["b", 2])
    y = onnx.helper.make_tensor_value_info("y", 1, ["b", 2])
    node = onnx.helper.make_node("Tanh", ["x"], ["y"])
    opset = [onnx.helper.make_opsetid("", 13)]
    artifact = describe(
        onnx.helper.make_model(
            onnx.helper.make_graph([node], "tanh", [x], [y]),
            opset_imports=opset,
            ir_version=8,
        )
    )
    session = open_artifact(artifact.files)
    compare(artifact, session, 0)  # nothing to compare with

    x = randn(2, 2)

    def check(reference) -> None:
        known = replace(
            artifact,
            samples={"x": x},
            reference=lambda arrays: [reference(arrays["x"])],
        )
        compare(known, session, 0)

    check(np.tanh)
    with pytest.raises(
        VerificationFailed, match=r"gives float32\[1, 2\], the"
    ):
        check(lambda x: np.tanh(x)[:, :1])
    with pytest.raises(VerificationFailed, match="the network float64"):
        check(lambda x: np.tanh(x).astype(np.float64))
    with pytest.raises(
        VerificationFailed, match="is the network deterministic"
    ):
        check(lambda x: np.where(x > 0, np.nan, np.tanh(x)))
    x *= np.float32(1e-4)
    check(np.tanh)
    with pytest.raises(VerificationFailed, match="allowed 1e-05"):
        check(lambda x: np.tanh(x) * 2)
