"""From networks to engines, which are really built; few can be run here."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hermes.quiver import Platform
from hermes.quiver.errors import (
    ExportFailed,
    InvalidInput,
    MissingExtra,
    UnsupportedExport,
    VerificationFailed,
)
from hermes.quiver.exporters import _tensorrt_build

tensorrt_rtx = pytest.importorskip("tensorrt_rtx_bindings")

# Uses another file than it is called with: the one in the directory.
IN_DIRECTORY = ["sh", "-c", "cd '{directory}' && exec \"$0\" build.py ."]


def chain(*nodes: onnx.NodeProto, x, y, dtype=TensorProto.FLOAT, **weights):
    """An ONNX graph from ``x`` to ``y``; both are shapes."""
    graph = helper.make_graph(
        list(nodes),
        "chain",
        [helper.make_tensor_value_info("x", dtype, x)],
        [helper.make_tensor_value_info("y", dtype, y)],
        [
            numpy_helper.from_array(np.float32(w), n)
            for n, w in weights.items()
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def convolution(scale: float = 1.0) -> onnx.ModelProto:
    """Its inner tensors are larger than its output by ``scale``."""
    node = helper.make_node
    return chain(
        node("Conv", ["x", "w"], ["a"], "first"),
        node("Relu", ["a"], ["b"], "relu"),
        node("ReduceMean", ["b"], ["c"], "mean", axes=[-1], keepdims=0),
        node("Mul", ["c", "k"], ["y"], "back"),
        x=["b", 2, 16],
        y=["b", 4],
        w=np.random.default_rng(0).standard_normal((4, 2, 3)) * scale,
        k=1 / scale,
    )


@pytest.fixture
def model(repository):
    model = repository.add("network", Platform.TENSORRT)
    model.config.max_batch_size = 8
    return model


@pytest.fixture
def tensorrt(tmp_path) -> list[str]:
    """A Python with a `tensorrt` 10.11, which is TensorRT-RTX in disguise."""
    folder = tmp_path / "disguise"
    folder.mkdir()
    (folder / "tensorrt.py").write_text(
        "from tensorrt_rtx_bindings import *\n__version__ = '10.11.0.33'\n"
    )
    return ["env", f"PYTHONPATH={folder}", sys.executable]


def provenance(model, version=None) -> dict:
    return json.loads(model.read_version(version, "model.plan.json"))


def test_an_engine_says_how_it_was_built(model, capfd) -> None:
    network = convolution()
    path = model.export_version(network)
    assert Path(path).name == "model.plan"
    assert len(model.read_version()) > 1000
    assert model.config.platform == "tensorrt_plan"
    assert model.config.input[0].dims == [2, 16]
    assert model.outputs["y"].shape == (None, 4)
    facts = provenance(model)
    assert facts["builder"] == "tensorrt_rtx"
    assert facts["builder_version"].startswith("1.")
    assert facts["profile"] == {"x": [[1, 2, 16], [8, 2, 16], [8, 2, 16]]}
    assert facts["precision"] == "fp32"
    digest = hashlib.sha256(network.SerializeToString()).hexdigest()
    assert facts["onnx_sha256"] == digest
    assert facts["inputs"] == [["x", "FLOAT", [-1, 2, 16]]]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "options",
    [{"use_fp16": True}, {"precision": "bf16"}, {"precision": "tf32"}],
)
def test_inputs_and_outputs_keep_their_types(model, options) -> None:
    model.export_version(convolution(), verify=True, **options)
    assert model.inputs["x"].dtype == np.float32
    assert model.outputs["y"].dtype == np.float32
    facts = provenance(model)
    assert facts["precision"] == options.get("precision", "fp16")
    assert [facts[k][0][1] for k in ("inputs", "outputs")] == ["FLOAT"] * 2


@pytest.mark.torch
def test_a_torch_network_is_exported_as_it_is_to_onnx(model) -> None:
    torch = pytest.importorskip("torch")

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv1d(2, 4, 3)

        def forward(self, strain, witness):
            return torch.softmax(self.conv(strain + witness).mean(-1), -1)

    shapes = {"strain": (None, 2, 16), "witness": (-1, 2, 16)}
    model.export_version(
        Network(), 1, shapes, ["y"], use_fp16=True, opset_version=18
    )
    assert list(model.inputs) == ["strain", "witness"]
    assert list(provenance(model)["profile"]) == ["strain", "witness"]
    assert model.outputs["y"].shape == (None, 4)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_recurrent_network_is_built(model, precision) -> None:
    rng = np.random.default_rng(0)
    node = helper.make_node
    network = chain(
        node("LSTM", ["x", "w", "r"], ["a"], "lstm", hidden_size=5),
        node("Squeeze", ["a"], ["y"], "squeeze"),
        x=[10, 3, 4],
        y=[10, 3, 5],
        w=rng.standard_normal((1, 20, 4)),
        r=rng.standard_normal((1, 20, 5)),
    )
    model.config.max_batch_size = 0
    model.export_version(network, precision=precision, verify=True)
    assert provenance(model)["profile"] == {}


def test_what_has_no_bfloat16_in_tensorrt_stays_in_float32(model) -> None:
    rng = np.random.default_rng(0)
    node = helper.make_node
    network = chain(
        node("ConvTranspose", ["x", "v"], ["a"], "up"),
        node("Conv", ["a", "w"], ["b"], "down"),
        node("HardSwish", ["b"], ["y"], "swish"),
        x=["b", 2, 16],
        y=["b", 2, 15],
        v=rng.standard_normal((2, 3, 2)),
        w=rng.standard_normal((2, 3, 3)),
    )
    model.export_version(network, precision="bf16", verify=True)
    assert model.versions == [1]


def test_an_overflow_is_found_before_anything_is_built(model, capfd) -> None:
    network = convolution(scale=1e4)
    with pytest.raises(
        VerificationFailed,
        match=r"in fp16 node 'first' \(Conv\) gives 75\d+\.\d, but fp16 ends"
        r" at 65504; take another precision",
    ):
        model.export_version(network, use_fp16=True, command=["false"])
    assert model.versions == []
    assert capfd.readouterr() == ("", "")
    model.export_version(network, use_fp16=True, keep_fp32=["Conv", "mean"])
    model.export_version(network, precision="bf16")
    assert provenance(model, 1)["keep_fp32"] == ["Conv", "mean"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_precision_that_does_not_suffice_is_refused(
    model, precision
) -> None:
    node = helper.make_node
    network = chain(
        node("MatMul", ["x", "w"], ["a"], "product"),
        node("Add", ["a", "k"], ["b"], "far"),
        node("Sub", ["b", "k"], ["y"], "back"),
        x=["b", 4],
        y=["b", 4],
        w=np.eye(4),
        k=5000.0,
    )
    with pytest.raises(
        VerificationFailed, match=r" output 'y' is .* at \(\d, \d\), in fp32"
    ):
        model.export_version(network, precision=precision)
    with pytest.raises(InvalidInput, match=r"names \['Sum'\], but the graph"):
        model.export_version(network, precision=precision, keep_fp32=["Sum"])
    model.export_version(network, precision=precision, keep_fp32=["far"])
    model.export_version(network, precision=precision, verify=False)


def test_models_and_files_are_built(model, repository, mean) -> None:
    model.export_version(mean)
    assert model.inputs["x"].shape == (None, 2, 16)
    model.export_version(Path(repository.root, "mean", "1", "model.onnx"))
    first, second = provenance(model, 1), provenance(model, 2)
    assert first["onnx_sha256"] == second["onnx_sha256"]
    other = repository.add("other", Platform.TENSORRT)
    with pytest.raises(InvalidInput, match="only a model of onnxruntime_onnx"):
        other.export_version(model)
    with pytest.raises(UnsupportedExport, match="to TENSORRT; there are"):
        other.export_version(lambda x: x)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fp16": True}, r"unknown option \['fp16'\]; TENSORRT takes: bu"),
        ({"precision": "int8"}, "precision='int8' is none of"),
        ({"precision": "bf16", "use_fp16": True}, "contradict each other"),
        ({"precision": "fp16", "use_fp16": False}, "contradict each other"),
        ({"use_fp16": True, "keep_fp32": "Conv"}, "give a list of names"),
        ({"keep_fp32": ["Conv"]}, "keep_fp32 says nothing where"),
        ({"workspace": 1.5}, r"workspace=1.5 is no positive number of bytes"),
        ({"timeout": 0}, "timeout=0 is no positive number of seconds"),
        ({"timing_cache": "/nowhere/cache"}, "cannot be a file"),
        ({"command": "python"}, "give a list of words that runs Python"),
        ({"command": []}, "give a list of words that runs Python"),
        ({"builder": "lean"}, "builder='lean' is none of"),
        ({"profile": [1]}, r"give the shapes \(min, opt, max\) by input"),
        ({"profile": {"z": 1}}, r"names \['z'\], but the inputs are \['x'\]"),
        ({"profile": {"x": ((1, 2, 16),)}}, "is not three shapes"),
        ({"profile": {"x": 3}}, "is not three shapes"),
        ({"profile": {"x": [(1.5, 2, 16)] * 3}}, "is not three shapes"),
        ({"profile": {"x": [(8, 2, 17)] * 3}}, "does not fit the input's"),
        (
            {"profile": {"x": ((1, 2, 16), (9, 2, 16), (8, 2, 16))}},
            "must have 1 <= min <= opt <= max",
        ),
        ({"profile": {"x": [(4, 2, 16)] * 3}}, "batches of 1 to max_batch"),
        ({"opset_version": 13}, "opset_version cannot be used"),
    ],
)
def test_what_cannot_be_is_refused_at_once(model, options, match) -> None:
    with pytest.raises(InvalidInput, match=match):
        model.export_version(convolution(), **{"command": ["false"]} | options)
    assert model.versions == []


def test_ranges_that_nobody_gave_are_asked_for(model) -> None:
    node = helper.make_node("Relu", ["x"], ["y"], "relu")
    network = chain(node, x=["b", 2, "t"], y=["b", 2, "t"])
    with pytest.raises(InvalidInput, match=r"the axes \[0, 2\] of input 'x'"):
        model.export_version(network)
    model.config.max_batch_size = 0
    with pytest.raises(InvalidInput, match=r"set config\.max_batch_size, or"):
        model.export_version(convolution())
    shapes = (1, 2, 4), (2, 2, 8), (4, 2, 16)
    model.export_version(network, profile={"x": shapes}, use_fp16=True)
    assert provenance(model)["profile"] == {"x": [list(s) for s in shapes]}
    assert model.inputs["x"].shape == (None, 2, None)


def test_what_tensorrt_cannot_parse_is_named(model) -> None:
    node = helper.make_node("Det", ["x"], ["y"], "determinant")
    with pytest.raises(
        ExportFailed, match=r"does not take .* node 'determinant' \(Det\)"
    ):
        model.export_version(chain(node, x=["b", 2, 2], y=["b"]))


def test_types_that_tensorrt_lacks_are_named(model) -> None:
    node = helper.make_node("Add", ["x", "x"], ["y"], "double")
    network = chain(node, x=["b", 2], y=["b", 2], dtype=TensorProto.DOUBLE)
    with pytest.raises(
        ExportFailed, match=r"float64'\}, the engine's \{'x': 'float32"
    ):
        model.export_version(network)


def test_the_last_lines_of_the_log_tell_why_nothing_was_built(model) -> None:
    with pytest.raises(
        ExportFailed, match=r"built no engine\. TensorRT's log: .*workspace"
    ):
        model.export_version(convolution(), workspace=1024)


def test_timings_are_kept(model, tmp_path) -> None:
    cache = tmp_path / "timings"
    for _ in range(2):
        model.export_version(convolution(), timing_cache=cache)
        assert cache.stat().st_size
    folder = tmp_path / "folder"
    folder.mkdir()
    command = ["sh", "-c", f'rm -r {folder}; exec "$0" "$@"', sys.executable]
    with pytest.raises(ExportFailed, match=r"timing_cache='.*' cannot be wr"):
        model.export_version(
            convolution(), timing_cache=folder / "timings", command=command
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "repository",
        "timings",
    ]


def test_an_engine_is_built_where_a_command_leads(model) -> None:
    model.export_version(
        convolution(), command=[*IN_DIRECTORY, sys.executable]
    )
    assert provenance(model)["builder"] == "tensorrt_rtx"


@pytest.mark.apptainer
def test_an_engine_is_built_in_a_container(model, triton_image) -> None:
    inside = ["apptainer", "exec", "--contain", "--bind", "{directory}"]
    python = [triton_image, "python3"]
    with pytest.raises(MissingExtra, match=r"python3 has none of \['tensorrt"):
        model.export_version(convolution(), command=[*inside, *python])
    ours = f"python3.{sys.version_info.minor}"
    if not (triton_image / "usr" / "bin" / ours).exists():
        pytest.skip(f"the image has no {ours} to use our packages with")
    packages = Path(tensorrt_rtx.__file__).parents[1]
    bound = [
        "--bind",
        f"{packages}:/packages",
        "--env",
        "PYTHONPATH=/packages",
    ]
    model.export_version(convolution(), command=[*inside, *bound, *python])
    assert provenance(model)["builder"] == "tensorrt_rtx"


@pytest.mark.parametrize(
    ("command", "match"),
    [
        (["/no/such/program"], "cannot run command='/no/such/program'"),
        (["true", "secret"], "^true ended with status 0 and left no engine"),
        (["sh", "-c", "echo oh no; exit 3"], "status 3 .* last lines: oh no"),
        (
            ["sh", "-c", "echo '[]' > {directory}/result.json"],
            "sh ended with status 0 and left no engine",
        ),
        (["sh", "-c", "echo hm; sleep 60"], "no engine in timeout=0.5 s.* hm"),
    ],
)
def test_commands_that_build_nothing_are_told_apart(
    model, command, match
) -> None:
    with pytest.raises(ExportFailed, match=match):
        model.export_version(convolution(), command=command, timeout=0.5)
    assert model.versions == []


def test_tensorrt_is_preferred_and_must_be_new_enough(model, tensorrt) -> None:
    model.export_version(convolution(), command=tensorrt)
    facts = provenance(model)
    assert facts["builder"] == "tensorrt"
    assert facts["builder_version"] == "10.11.0.33"
    model.export_version(convolution(), command=tensorrt, builder="rtx")
    assert provenance(model)["builder"] == "tensorrt_rtx"
    module = Path(tensorrt[1].partition("=")[2]) / "tensorrt.py"
    module.write_text("__version__ = '8.6.1'\n")
    with pytest.raises(ExportFailed, match=r"8\.6\.1; 10 or later"):
        model.export_version(convolution(), command=tensorrt)
    module.write_text("import nonesuch\n")
    with pytest.raises(ExportFailed, match="No module named 'nonesuch'"):
        model.export_version(convolution(), command=tensorrt)


def test_hardware_compatibility_is_a_level_of_tensorrt(
    model, tensorrt
) -> None:
    def export(level, **options) -> None:
        model.export_version(
            convolution(), hardware_compatibility=level, **options
        )

    with pytest.raises(InvalidInput, match=r"_rtx_.* has no hardware_compat"):
        export("ampere_plus")
    with pytest.raises(InvalidInput, match=r"='all' is none of \(None, 'amp"):
        export("all")
    export("ampere_plus", command=tensorrt)
    assert provenance(model)["hardware_compatibility"] == "ampere_plus"


def test_missing_packages_are_named(model) -> None:
    with pytest.raises(MissingExtra, match=r"\['tensorrt'\] is installed; .*"):
        model.export_version(convolution(), builder="tensorrt")
    with pytest.raises(MissingExtra, match=r"has none of .* there \(hermes"):
        model.export_version(
            convolution(), builder="tensorrt", command=[sys.executable]
        )


def test_ctrl_c_ends_the_command_with_its_children(model, tmp_path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 60 & echo $! $$ > {pids}; wait"

    def interrupt() -> None:
        while not (pids.exists() and pids.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        model.export_version(convolution(), command=["sh", "-c", script])
    for pid in map(int, pids.read_text().split()):
        wait_for_end(pid)


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        if status.rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    pytest.fail(f"{pid} is still there")


@pytest.mark.parametrize("is_waited_for", [True, False])
def test_the_script_ends_with_its_user_and_with_its_time(
    tmp_path, is_waited_for
) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
    directory = tmp_path / "directory"
    directory.mkdir()
    timeout = 60 if is_waited_for else 0.1
    request = {"builders": ["slow"], "timeout": timeout}
    (directory / "request.json").write_text(json.dumps(request))
    with subprocess.Popen(
        [sys.executable, _tensorrt_build.__file__, directory],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ) as process:
        if is_waited_for:
            process.stdin.write(b"!")
        process.stdin.close()
        assert process.wait(10) == 1
    assert directory.exists() != is_waited_for


@pytest.mark.gpu
@pytest.mark.torch
def test_an_engine_computes_what_its_network_does(model) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    trt = pytest.importorskip("tensorrt")
    network = torch.nn.Sequential(
        torch.nn.Conv1d(2, 4, 3), torch.nn.ReLU(), torch.nn.Flatten()
    )
    model.export_version(network, input_shapes={"input": (None, 2, 16)})
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine(model.read_version())
    context = engine.create_execution_context()
    (output,) = model.outputs
    for size in 1, 2, 8:
        x = torch.randn(size, 2, 16, device="cuda")
        y = torch.empty(size, 4 * 14, device="cuda")
        context.set_input_shape("input", tuple(x.shape))
        context.set_tensor_address("input", x.data_ptr())
        context.set_tensor_address(output, y.data_ptr())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        assert context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        expected = network(x.cpu()).detach()
        torch.testing.assert_close(y.cpu(), expected, rtol=1e-4, atol=1e-4)
