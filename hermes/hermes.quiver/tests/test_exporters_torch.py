"""torch's modules, to ONNX and TorchScript: what they take and give."""

import dataclasses
import io
import json
import logging
import os
import sys
import threading
import warnings
from importlib import import_module
from typing import NamedTuple

import numpy as np
import onnx
import pytest

from hermes.quiver import Platform
from hermes.quiver.errors import (
    ExportFailed,
    InvalidConfig,
    InvalidInput,
    VerificationFailed,
)
from hermes.quiver.exporters._quiet import quiet

torch = pytest.importorskip("torch")
exact = import_module("hermes.quiver.exporters._torch_network").exact

RUNTIMES = {
    Platform.ONNX: "hermes.quiver.verify",
    Platform.TORCHSCRIPT: "hermes.quiver.exporters.torch",
}


def run(model, **arrays):
    """What the latest version gives, by name."""
    runtime = import_module(RUNTIMES[model.platform])
    files = {model.platform.filename: model.read_version()}
    session = runtime.open_artifact(files)
    names = list(model.outputs)
    return dict(zip(names, session(names, arrays), strict=True))


def randn(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.fixture(params=[Platform.ONNX, Platform.TORCHSCRIPT], ids=str)
def model(repository, request):
    return repository.add("network", request.param)


@pytest.fixture
def onnx_model(repository):
    return repository.add("network", Platform.ONNX)


@pytest.fixture
def script(repository):
    return repository.add("network", Platform.TORCHSCRIPT)


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(3, 5, batch_first=True)

    def forward(self, strain):
        return self.gru(strain)[0]


@dataclasses.dataclass
class Prediction:
    mean: object
    missing: object = None


class Point(NamedTuple):
    low: object
    high: object


class Nested(torch.nn.Module):
    def forward(self, x):
        point = Point(x - 1, x + 1)
        return {
            "score": x.sum(-1),
            "more": {"point": point, "list": [x * 2, x * 3]},
            "prediction": Prediction(x.mean(-1)),
        }


class Undecided(torch.nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Masked(torch.nn.Module):
    def forward(self, x, mask=None, *, scale=2.0):
        return x * scale if mask is None else x.masked_fill(mask, 0) * scale


class Dense(torch.nn.Module):
    """Has nothing that a half or a whole precision has not."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(4, 2)

    def forward(self, x):
        return torch.tanh(self.dense(x))


class Doubled(torch.nn.Module):
    def forward(self, x):
        return x * 2


class Where(torch.nn.Module):
    """Makes tensors where its input is."""

    def forward(self, x):
        size = x.shape[-1] if x.ndim else 1
        return x + torch.arange(size, device=x.device)


def test_a_time_axis_may_be_variable_without_an_example(model) -> None:
    network = Recurrent()
    model.export_version(network, input_shapes={"strain": (None, -1, 3)})
    assert model.inputs["strain"].shape == (None, None, 3)
    assert model.outputs["output_0"].shape == (None, None, 5)
    x = randn(3, 50, 3)
    np.testing.assert_allclose(
        run(model, strain=x)["output_0"],
        network(torch.from_numpy(x)).detach(),
        atol=1e-5,
    )


class Picky(torch.nn.Module):
    def forward(self, x):
        if x.shape[-1] != 100:
            raise ValueError("takes 100 samples")
        return x.sum(-1)


def test_an_example_is_asked_for_where_no_size_fits(model) -> None:
    with pytest.raises(InvalidInput, match=r"takes 100.*in sample_inputs"):
        model.export_version(Picky(), input_shapes=[(None, None)])
    with pytest.raises(InvalidInput, match=r"\(2, 2\), which does not fit"):
        model.export_version(
            Picky(), input_shapes=[(None, 100)], sample_inputs=[randn(2, 2)]
        )


def test_a_variable_axis_that_the_network_fixes_is_refused(
    onnx_model,
) -> None:
    with pytest.raises(
        ExportFailed, match=r"(?s)static shape of 100.*try opset_version=17"
    ):
        onnx_model.export_version(
            Picky(),
            input_shapes=[(None, None)],
            sample_inputs=[randn(2, 100)],
        )


class Divided(torch.nn.Module):
    def forward(self, x):
        return x / len(x)


class Rows(torch.nn.Module):
    def forward(self, x):
        return list(x)


@pytest.mark.parametrize("network", [Divided(), Rows()])
def test_a_batch_that_the_network_fixes_is_refused(
    onnx_model, network
) -> None:
    with pytest.raises(
        ExportFailed,
        match=r"takes x \(2, 4\) only, not \(None, 4\).*len\(x\).*shape",
    ):
        onnx_model.export_version(network, input_shapes=[(None, 4)])


def test_as_many_outputs_as_there_are_rows_are_refused(script) -> None:
    with pytest.raises(
        InvalidInput, match=r"gives 3 outputs for .*, and 2 for its example"
    ):
        script.export_version(Rows(), input_shapes=[(None, 4)])


def test_nested_outputs_are_named_by_their_paths(model) -> None:
    model.export_version(Nested(), input_shapes={"x": (None, 4)})
    x = randn(3, 4)
    outputs = run(model, x=x)
    assert list(outputs) == [
        "score",
        "more_point_low",
        "more_point_high",
        "more_list_0",
        "more_list_1",
        "prediction_mean",
    ]
    np.testing.assert_allclose(outputs["more_list_1"], x * 3, rtol=1e-6)
    assert model.outputs["prediction_mean"].shape == (None,)


def test_names_may_be_given(model) -> None:
    class Anything(torch.nn.Module):
        def forward(self, *arrays):
            return arrays[0] - arrays[1]

    shapes = [(None, 4), (None, 4)]
    with pytest.raises(InvalidInput, match=r"\(\*arrays\), which has no name"):
        model.export_version(Anything(), input_shapes=shapes)
    model.export_version(
        Anything(),
        input_shapes=shapes,
        input_names=["H1/strain", "L1/strain"],
        output_names=["difference"],
    )
    arrays = {"L1/strain": randn(2, 4), "H1/strain": 3 * randn(2, 4)}
    np.testing.assert_allclose(
        run(model, **arrays)["difference"], 2 * randn(2, 4), rtol=1e-5
    )


def test_arguments_may_be_any_keywords(script) -> None:
    class Keywords(torch.nn.Module):
        def forward(self, **arrays):
            return arrays["h1"] - arrays["l1"]

    with pytest.raises(
        InvalidInput, match=r"\(\*\*arrays\), which has no name"
    ):
        script.export_version(Keywords(), input_shapes=[(None, 4)])
    shapes = {"l1": (None, 4), "h1": (None, 4)}
    script.export_version(Keywords(), input_shapes=shapes)
    outputs = run(script, h1=3 * randn(2, 4), l1=randn(2, 4))
    np.testing.assert_allclose(outputs["output_0"], 2 * randn(2, 4), rtol=1e-5)


def test_a_later_version_keeps_names_and_dtypes_of_the_first(script) -> None:
    network = torch.nn.Embedding(10, 4)
    sample = {"input": np.zeros((2, 5), np.int64)}
    script.export_version(network, sample_inputs=sample, output_names=["y"])
    script.export_version(network)
    assert script.versions == [1, 2]
    assert list(script.outputs) == ["y"]


def test_a_later_version_gives_no_output_the_name_of_another(model) -> None:
    class Keyed(torch.nn.Module):
        def __init__(self, *keys: str) -> None:
            super().__init__()
            self.keys = keys

        def forward(self, x):
            return {key: x * i for i, key in enumerate(self.keys)}

    model.export_version(Keyed("a", "b"), input_shapes=[(None, 4)])
    with pytest.raises(InvalidConfig, match="or name them with output_names"):
        model.export_version(Keyed("b", "c"))
    model.export_version(Keyed("b", "c"), output_names=["a", "b"])
    assert model.versions == [1, 2]


def test_inputs_that_were_named_have_to_be_named_again(script) -> None:
    network, names = torch.nn.Linear(4, 2), ["strain"]
    shapes = [(None, 4)]
    script.export_version(network, input_shapes=shapes, input_names=names)
    with pytest.raises(InvalidInput, match=r"the configuration names .*input"):
        script.export_version(network)
    script.export_version(network, input_names=names)
    assert script.versions == [1, 2]


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (
            ["x"],
            r"\['x'\] beside the inputs \['x'\]: each tensor needs a name",
        ),
        ("y", "output_names='y': give a list of names, each its"),
        ([""], r"output_names=\[''\]: give a list of names"),
        (["y", "z"], "but the network gives 1 .output_0."),
        (["y__1"], "digits after '__'"),
    ],
)
def test_names_that_cannot_be_are_refused(script, names, match) -> None:
    with pytest.raises(InvalidInput, match=match):
        script.export_version(
            Where(), input_shapes=[(None, 4)], output_names=names
        )


def test_defaults_and_keywords_are_kept(model) -> None:
    model.export_version(Masked(), input_shapes={"x": (None, 4)})
    np.testing.assert_allclose(
        run(model, x=randn(3, 4))["output_0"], randn(3, 4) * 2
    )


def test_samples_may_be_tensors_of_any_dtype(model) -> None:
    mask = torch.tensor([[True, False], [False, True]])
    model.export_version(
        Masked(),
        input_shapes={"scale": (1,)},
        sample_inputs={
            "x": torch.ones(2, 2, requires_grad=True),
            "mask": mask,
            "scale": np.array([3], np.float32),
        },
    )
    assert {n: str(t.dtype) for n, t in model.inputs.items()} == {
        "x": "float32",
        "mask": "bool",
        "scale": "float32",
    }
    assert model.inputs["scale"].shape == (1,)
    outputs = run(
        model,
        x=randn(2, 2),
        mask=mask.numpy(),
        scale=np.array([3], np.float32),
    )
    np.testing.assert_allclose(
        outputs["output_0"],
        np.where(mask, 0, randn(2, 2) * 3),
        rtol=1e-6,
    )


class Energy(torch.nn.Module):
    def forward(self, x):
        return x.square().sum(-1)


def test_one_number_for_each_row_is_an_axis_of_size_1_to_triton(
    script,
) -> None:
    script.config.max_batch_size = 4
    for _ in range(2):
        script.export_version(Energy(), input_shapes=[(None, 3)])
    assert script.outputs["output_0"].shape == (None, 1)
    (output,) = script.config.output
    assert list(output.dims) == [1]
    assert output.HasField("reshape")
    assert not output.reshape.shape
    assert run(script, x=randn(2, 3))["output_0"].shape == (2,)


def test_scalars_are_refused(repository) -> None:
    model = repository.add("scalar", Platform.TORCHSCRIPT)
    with pytest.raises(
        InvalidConfig, match=r"output_0 is a scalar.*of size 1"
    ):
        model.export_version(Energy(), input_shapes=[(3,)])
    with pytest.raises(InvalidConfig, match="x is a scalar"):
        model.export_version(Where(), sample_inputs={"x": np.float32(1)})


def test_examples_of_one_row_follow_those_of_several(script) -> None:
    class Three(torch.nn.Module):
        def forward(self, x, y, z):
            return torch.cat([x, y, z], 1)

    script.export_version(
        Three(),
        input_shapes={"z": (None, 4)},
        sample_inputs={"x": randn(3, 4), "y": randn(1, 4)},
    )
    assert script.outputs["output_0"].shape == (None, 12)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_has_a_tolerance_of_its_own(script, precision) -> None:
    network = Dense().to(getattr(torch, precision))
    script.export_version(network, input_shapes={"x": (None, 4)})
    assert script.inputs["x"].dtype == script.outputs["output_0"].dtype
    assert str(script.inputs["x"].dtype) == precision


def test_a_half_module_runs_in_onnxruntime(onnx_model) -> None:
    onnx_model.export_version(Dense().half(), input_shapes={"x": (None, 4)})
    assert onnx_model.outputs["output_0"].dtype == np.float16


def test_bfloat16_goes_in_and_what_cannot_be_run_is_said(
    repository,
) -> None:
    class Wider(torch.nn.Module):
        def forward(self, x):
            return x.float() * 2, x

    sample = [torch.tensor([[1.5, 2.5], [3, 4]], dtype=torch.bfloat16)]
    model = repository.add("wider", Platform.ONNX)
    model.export_version(Wider(), sample_inputs=sample)
    assert str(model.inputs["x"].dtype) == "bfloat16"
    model = repository.add("dense", Platform.ONNX)
    with pytest.raises(
        VerificationFailed,
        match=r"onnxruntime cannot run .*NOT_IMPLEMENTED.*verify=False",
    ):
        model.export_version(Dense().bfloat16(), input_shapes=[(None, 4)])


def test_complex_outputs_are_refused(script) -> None:
    class Spectrum(torch.nn.Module):
        def forward(self, x):
            return torch.fft.rfft(x)

    with pytest.raises(InvalidInput, match=r"complex64.*view_as_real"):
        script.export_version(Spectrum(), input_shapes=[(None, 8)])


@pytest.mark.parametrize("opset", [13, 17])
def test_old_opsets_are_made_by_the_older_exporter(onnx_model, opset) -> None:
    network = torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.GELU())
    path = onnx_model.export_version(
        network, input_shapes=[(None, None, 8)], opset_version=opset
    )
    assert onnx.load(path).opset_import[0].version == opset
    assert onnx_model.outputs["output_0"].shape == (None, None, 8)


def test_an_opset_that_torch_leaves_out_silently_is_refused(
    onnx_model,
) -> None:
    network = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    with pytest.raises(ExportFailed, match=r"opset_version=28; leave it out"):
        onnx_model.export_version(
            network, input_shapes=[(2, 4, 8)], opset_version=28
        )


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"opset_version": 5}, "5 is none of 7 to"),
        ({"opset_version": "13"}, "'13' is none of 7 to"),
        ({"method": "trace"}, "takes: opset_version"),
    ],
)
def test_wrong_options_of_onnx_are_refused(
    onnx_model, arguments, match
) -> None:
    with pytest.raises(InvalidInput, match=match):
        onnx_model.export_version(
            Where(), input_shapes=[(None, 4)], **arguments
        )


def test_what_does_not_fit_in_a_file_is_refused(onnx_model) -> None:
    network = Where()
    network.register_buffer("table", torch.zeros(1).expand(2**30))
    with pytest.raises(InvalidInput, match=r"has 4\.3 GB, and ONNX holds 2"):
        onnx_model.export_version(network, input_shapes=[(None, 4)])


class Outer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Undecided()

    def forward(self, x):
        return self.inner(x)


def test_the_line_that_torch_cannot_export_is_named(onnx_model, capfd) -> None:
    with pytest.raises(ExportFailed) as caught:
        onnx_model.export_version(Outer(), input_shapes=[(None, 4)])
    message = str(caught.value)
    assert message.startswith("torch cannot export Outer to ONNX: it decides")
    assert f"{__file__}:" in message
    assert "in forward: return x * 2 if x.sum() > 0 else x)" in message
    assert "method='script'" in message
    assert len(message) < 500
    assert caught.value.__cause__ is not None  # torch's own report
    assert capfd.readouterr() == ("", "")


def test_an_operator_without_onnx_is_named_with_its_line(
    onnx_model, capfd
) -> None:
    class Attention(torch.nn.Module):
        def forward(self, q):
            return torch.nn.functional.scaled_dot_product_attention(q, q, q)

    with pytest.raises(ExportFailed, match=r"4D .*scaled_dot.*version=17"):
        onnx_model.export_version(Attention(), input_shapes=[(None, 4, 8)])
    onnx_model.export_version(
        Attention(), input_shapes=[(None, 4, 8)], opset_version=17
    )
    assert capfd.readouterr() == ("", "")


def test_a_recording_with_a_branch_is_refused(repository) -> None:
    for platform, options in (
        (Platform.TORCHSCRIPT, {}),
        (Platform.ONNX, {"opset_version": 13}),
    ):
        model = repository.add(platform.name, platform)
        with pytest.raises(VerificationFailed, match="without branches"):
            model.export_version(
                Undecided(), input_shapes=[(None, 4)], **options
            )


def test_a_script_keeps_branches(script) -> None:
    script.export_version(
        Undecided(), input_shapes=[(None, 4)], method="script"
    )
    for sign in 1, -1:
        x = sign * np.ones((3, 4), np.float32)
        expected = x * 2 if sign > 0 else x
        np.testing.assert_array_equal(run(script, x=x)["output_0"], expected)


class Listing(torch.nn.Module):
    def forward(self, x):
        return [x, x]


@pytest.mark.parametrize(
    ("network", "arguments", "error", "match"),
    [
        (Where(), {"method": "guess"}, InvalidInput, "none of trace, script"),
        (Listing(), {"method": "script"}, InvalidInput, r"returns List\[Ten"),
        (Nested(), {"method": "script"}, ExportFailed, "try method='trace'"),
    ],
)
def test_wrong_scripts_are_refused(
    script, network, arguments, error, match
) -> None:
    with pytest.raises(error, match=match):
        script.export_version(network, input_shapes=[(None, 4)], **arguments)


class Scaled(torch.nn.Module):
    def forward(self, x: torch.Tensor, gain: float = 2.0):
        return x * gain


def test_what_a_server_would_give_to_the_wrong_place_is_refused(
    script,
) -> None:
    shapes = {"x": (None, 4)}
    with pytest.raises(InvalidInput, match=r"all its .*not for \['x'\] only"):
        script.export_version(Scaled(), input_shapes=shapes, method="script")
    script.config.add_output("b", (None,))
    script.config.add_output("a", (None,))
    with pytest.raises(InvalidConfig, match=r"by their order.*\['a', 'b'\]"):
        script.export_version(
            Listing(), input_shapes=[(None,)], output_names=["a", "b"]
        )


def test_an_argument_that_is_not_used_cannot_be_recorded(onnx_model) -> None:
    class First(torch.nn.Module):
        def forward(self, x, y):  # noqa: ARG002
            return x * 2

    shapes = [(None, 4), (None, 4)]
    with pytest.raises(ExportFailed, match=r"inputs \['x'\] instead of"):
        onnx_model.export_version(
            First(), input_shapes=shapes, opset_version=13
        )
    onnx_model.export_version(First(), input_shapes=shapes)
    assert list(onnx_model.inputs) == ["x", "y"]


def test_outputs_of_one_name_are_numbered(script) -> None:
    class Same(torch.nn.Module):
        def forward(self, x):
            return {"a_b": x + 1, "a": {"b": x + 2}, "x": x}

    script.export_version(Same(), input_shapes=[(None, 4)])
    assert list(script.outputs) == ["a_b", "a_b_1", "x_1"]
    outputs = run(script, x=np.zeros((2, 4), np.float32))
    assert [array[0, 0] for array in outputs.values()] == [1, 2, 0]


def test_what_is_no_tensor_is_named_in_the_error(script) -> None:
    class Other(torch.nn.Module):
        def forward(self, x):
            return {"x": [x, {"gain": 2.0}]}

    class Nothing(torch.nn.Module):
        def forward(self, x):
            return {"nothing": None, "x": [x][1:]}

    with pytest.raises(
        InvalidInput, match=r"a float as x\.1\.gain; let it return tensors"
    ):
        script.export_version(Other(), input_shapes=[(None, 4)])
    with pytest.raises(InvalidInput, match="returns no tensor"):
        script.export_version(Nothing(), input_shapes=[(None, 4)])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("freeze", [False, True])
def test_a_script_is_taken_as_it_is(repository, freeze) -> None:
    module = torch.jit.script(Where().eval())
    if freeze:
        module = torch.jit.freeze(module)
    before = str(module.graph)
    model = repository.add("network", Platform.TORCHSCRIPT)
    model.export_version(module, input_shapes=[(None, 4)])
    assert str(module.graph) == before
    assert list(model.inputs) == ["x"]
    with pytest.raises(ExportFailed, match="no ScriptModule to ONNX"):
        repository.add("onnx", Platform.ONNX).export_version(
            module, input_shapes=[(None, 4)]
        )


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_a_recording_runs_on_the_device_that_it_is_loaded_to(script) -> None:
    path = script.export_version(Where(), input_shapes=[(None, 4)])
    names = {"hermes.json": ""}
    module = torch.jit.load(path, map_location="meta", _extra_files=names)
    assert module(torch.ones(2, 4, device="meta")).device.type == "meta"
    assert [a.name for a in module.forward.schema.arguments[1:]] == ["x"]
    assert json.loads(names["hermes.json"]) == {
        "inputs": ["x"],
        "outputs": ["output_0"],
    }


@pytest.mark.filterwarnings("ignore:.*quant.*")
def test_a_quantised_module_is_a_script(repository) -> None:
    network = torch.ao.quantization.quantize_dynamic(
        torch.nn.Sequential(torch.nn.Linear(8, 4)), dtype=torch.qint8
    )
    model = repository.add("script", Platform.TORCHSCRIPT)
    model.export_version(network, input_shapes=[(None, 8)])
    with pytest.raises(ExportFailed, match=r"Platform\.TORCHSCRIPT"):
        repository.add("onnx", Platform.ONNX).export_version(
            network, input_shapes=[(None, 8)]
        )


def test_compiled_and_parallel_modules_are_looked_into(script) -> None:
    for wrapped in torch.compile(Dense()), torch.nn.DataParallel(Dense()):
        script.export_version(wrapped, input_shapes={"x": (None, 4)})
    assert script.versions == [1, 2]


def test_what_was_compiled_inside_is_looked_into(model) -> None:
    network = torch.nn.Sequential(torch.compile(Dense()), Doubled())
    network.compile()
    network[1].compile()
    x = torch.ones(3, 4)
    model.export_version(network, input_shapes={"input": (None, 4)})
    assert network[0]._orig_mod is not None
    assert network._compiled_call_impl is not None
    with torch.compiler.set_stance("force_eager"):
        expected = network(x).detach()
    outputs = run(model, input=x.numpy())
    np.testing.assert_allclose(outputs["output_0"], expected, atol=1e-6)


def test_a_network_without_shapes_is_to_be_run_first(model) -> None:
    network = torch.nn.Sequential(torch.nn.LazyLinear(2))
    with pytest.raises(
        InvalidInput, match=r"Sequential has no shape for \['0"
    ):
        model.export_version(network, input_shapes=[(None, 4)])
    assert isinstance(network[0], torch.nn.LazyLinear)
    network(torch.ones(1, 4))
    model.export_version(network, input_shapes=[(None, 4)])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_an_artifact_that_does_not_run_is_refused_in_one_line(script) -> None:
    parametrizations = torch.nn.utils.parametrizations
    network = parametrizations.weight_norm(torch.nn.Conv1d(2, 3, 3))
    with pytest.raises(
        VerificationFailed,
        match=r"does not run on .*\[1, 2, 16\].*: [^\n]*scripting[^\n]*$",
    ):
        script.export_version(
            network, input_shapes=[(None, 2, 16)], method="script"
        )


def state_of(network):
    return {
        "modes": {n: m.training for n, m in network.named_modules()},
        "hooks": [len(m._forward_hooks) for m in network.modules()],
        "grads": [(p.requires_grad, p.grad) for p in network.parameters()],
        "random": torch.get_rng_state().tolist(),
        "grad": torch.is_grad_enabled(),
        "attributes": sorted(vars(network)),
        "loggers": logging.getLogger("torch").handlers[:],
        "fast path": torch.backends.mha.get_fastpath_enabled(),
    }


class Random(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(4, 4)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.dense(x)) + torch.rand_like(x)


@pytest.mark.parametrize("options", [{}, {"opset_version": 13}])
def test_everything_is_left_as_it_was_after_failures(
    onnx_model, options
) -> None:
    network = Random()
    network.dense.eval()
    network.register_forward_hook(lambda *_: None)
    before = state_of(network)
    with pytest.raises(VerificationFailed, match="deterministic"):
        onnx_model.export_version(network, input_shapes=[(None, 4)], **options)
    with pytest.raises(InvalidInput, match="does not run"):
        onnx_model.export_version(network, input_shapes=[(None, 5)], **options)
    assert state_of(network) == before


def test_what_a_network_counts_is_not_counted_for_an_export(model) -> None:
    class Counting(Dense):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("last", torch.full((1,), torch.nan))

        def forward(self, x):
            self.calls += 1
            self.last = x.detach().max().reshape(1)
            return super().forward(x)

    network = Counting()
    if model.platform is Platform.TORCHSCRIPT:  # ONNX has no such tensors
        network.register_buffer("sparse", torch.eye(2).to_sparse())
    buffers = [*network.buffers()]
    model.export_version(network, input_shapes=[(None, 4)])
    assert all(a is b for a, b in zip(network.buffers(), buffers, strict=True))
    assert network.calls == 0
    assert network.last.isnan()


@pytest.mark.parametrize(
    "options", [{}, {"opset_version": 13}, {"method": "script"}]
)
def test_what_a_network_keeps_of_its_inputs_is_not_that_of_an_export(
    repository, options
) -> None:
    class Keeping(Dense):
        def __init__(self) -> None:
            super().__init__()
            self.last = torch.ones(1)

        def forward(self, x):
            self.last = x
            return super().forward(x) + torch.rand_like(x[:, :1]) * 0

    is_script = "method" in options
    network = Dense() if is_script else Keeping()
    before = [dict(vars(module)) for module in network.modules()]
    random = torch.get_rng_state()
    script = repository.add("script", Platform.TORCHSCRIPT)
    script.export_version(
        network, input_shapes=[(None, 4)], **options if is_script else {}
    )
    if not is_script:
        model = repository.add("onnx", Platform.ONNX)
        model.export_version(network, input_shapes=[(None, 4)], **options)
    after = [dict(vars(module)) for module in network.modules()]
    assert [*map(list, after)] == [*map(list, before)]
    for old, new in zip(before, after, strict=True):
        assert all(old[name] is new[name] for name in old)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_gpu_rounds_as_before_when_it_was_compared() -> None:
    backends = torch.backends
    before = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    with exact(torch.device("cuda")):
        assert backends.cudnn.conv.fp32_precision == "ieee"
        assert backends.cuda.matmul.fp32_precision == "ieee"
    after = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    assert after == before


def test_frameworks_are_silenced_one_after_the_other() -> None:
    entered = threading.Event()

    def enter() -> None:
        with quiet():
            entered.set()

    other = threading.Thread(target=enter)
    with quiet():
        other.start()
        # else it would take our silence for the terminal, and give it back
        assert not entered.wait(0.2)
    assert entered.wait(10)
    other.join()


def test_what_libraries_print_is_kept_from_the_terminal(capfd) -> None:
    logger = logging.getLogger("library.somewhere")
    handler = logging.StreamHandler(io.StringIO())
    logger.addHandler(handler)
    with quiet(["library"]) as heard:
        os.write(2, b"loud")
        os.write(1, b"loud")
        print("loud", file=sys.stderr)
        logger.warning("loud")
        warnings.warn("loud", stacklevel=1)
    print("heard")
    logger.warning("logged")
    logger.removeHandler(handler)
    assert [str(w.message) for w in heard.warnings] == ["loud"]
    assert handler.stream.getvalue() == "logged\n"
    assert capfd.readouterr() == ("heard\n", "")
