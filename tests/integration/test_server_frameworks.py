"""TorchScript and Python models on a real server.

The oracle is the same computation, done by the framework in this process.
"""

import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import (
    BackendMissing,
    ModelControlFailed,
    RuntimeUnusable,
    ServerDied,
)
from hermes.aeriel.serve import Server, serve
from hermes.aeriel.serve._manifest import MANIFEST, Manifest
from hermes.aeriel.serve._runtimes import ManagedRuntime, find_runtime

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.triton

Arrays = dict[str, np.ndarray]
SIZES = [1, 2, 8]


def needs(extra: str) -> pytest.MarkDecorator:
    """Skip where the local runtime was installed without it."""
    try:
        found = find_runtime(os.environ)
    except RuntimeUnusable:
        found = None
    managed = isinstance(found, ManagedRuntime)
    manifest = Manifest.read(found.prefix) if managed else None
    return pytest.mark.skipif(
        "CI" not in os.environ
        and (manifest is None or extra not in manifest.extras),
        reason=f"needs `python -m hermes.aeriel.serve install --with {extra}`",
    )


def tensor(kind: str, name: str, dtype: str, dims: str) -> str:
    return (
        f'{kind} {{ name: "{name}" data_type: TYPE_{dtype} dims: [{dims}] }}\n'
    )


def write_config(folder: Path, text: str) -> None:
    group = "instance_group { count: 1 kind: KIND_CPU }\n"
    (folder / "config.pbtxt").write_text(group + text)


def write_torchscript(
    root: Path, name: str, module: torch.nn.Module, config: str
) -> torch.jit.ScriptModule:
    (root / name / "1").mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript's future
        script = torch.jit.script(module.eval())
        script.save(str(root / name / "1" / "model.pt"))
        loaded = torch.jit.load(str(root / name / "1" / "model.pt"))
    write_config(root / name, 'platform: "pytorch_libtorch"\n' + config)
    return loaded


class Network(torch.nn.Module):
    """Two inputs, of which one chooses, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv1d(2, 16, 7)
        self.recurrent = torch.nn.LSTM(16, 8, batch_first=True)
        self.linear = torch.nn.Linear(8, 1)

    def forward(
        self, strain: torch.Tensor, keep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        seen = torch.relu(self.convolution(strain)).transpose(1, 2)
        last = self.recurrent(seen)[0][:, -1]
        return self.linear(last * keep), seen.sum(dim=(1, 2))


class Same(torch.nn.Module):
    def forward(
        self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return c, a, b


class Sum(torch.nn.Module):
    def forward(
        self, x: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return x + state, x + state


NETWORK = (
    "max_batch_size: 8 dynamic_batching { }\n"
    + tensor("input", "keep", "BOOL", "8")
    + tensor("input", "strain", "FP32", "2, 128")
    + tensor("output", "seen__1", "FP32", "1").replace(
        "dims: [1]", "dims: [1] reshape { shape: [] }"
    )
    + tensor("output", "score__0", "FP32", "1")
)
DTYPES = {"INT64": np.int64, "FP16": np.float16, "UINT8": np.uint8}
SAME = "".join(
    tensor("input", f"in__{place}", dtype, "-1, 3")
    + tensor("output", f"out__{(place + 1) % 3}", dtype, "-1, 3")
    for place, dtype in enumerate(DTYPES)
)
SUM = (
    tensor("input", "x__0", "FP32", "1, 4")
    + tensor("output", "sum__0", "FP32", "1, 4")
    + 'sequence_batching { state { input_name: "state__1" '
    'output_name: "new_state__1" data_type: TYPE_FP32 dims: [1, 4] } }\n'
)


@pytest.fixture(scope="module")
def torchscript(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Server, torch.jit.ScriptModule]]:
    root = tmp_path_factory.mktemp("torchscript")
    network = write_torchscript(root, "network", Network(), NETWORK)
    write_torchscript(root, "same", Same(), SAME)
    write_torchscript(root, "sum", Sum(), SUM)
    with serve(root, free_ports=True) as server:
        yield server.wait(120), network


def predict(server: Server, model: str, inputs: Arrays) -> Arrays:
    with InferenceClient(server.endpoint, model) as client:
        answer = client.predict(inputs, timeout=20)
    return answer if isinstance(answer, dict) else {"": answer}


@needs("torch")
@pytest.mark.parametrize("size", SIZES)
def test_torchscript_gives_what_it_gives_offline(
    torchscript: tuple[Server, torch.jit.ScriptModule], size: int
) -> None:
    server, network = torchscript
    rng = np.random.default_rng(size)
    strain = rng.normal(size=(size, 2, 128)).astype(np.float32)
    keep = rng.integers(0, 2, (size, 8)).astype(bool)
    with torch.inference_mode():
        score, seen = network(*map(torch.from_numpy, (strain, keep)))
    answer = predict(server, "network", {"strain": strain, "keep": keep})
    np.testing.assert_array_equal(answer["score__0"], score.numpy())
    np.testing.assert_array_equal(answer["seen__1"][:, 0], seen.numpy())


@needs("torch")
def test_numbers_in_names_count_arguments_and_results(
    torchscript: tuple[Server, torch.jit.ScriptModule],
) -> None:
    server, _ = torchscript
    arrays = [
        np.arange(6).reshape(2, 3).astype(dtype) + place
        for place, dtype in enumerate(DTYPES.values())
    ]
    inputs = {f"in__{place}": array for place, array in enumerate(arrays)}
    answer = predict(server, "same", inputs)
    for place, array in enumerate(arrays):
        found = answer[f"out__{(place + 1) % 3}"]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@needs("torch")
def test_torchscript_may_have_implicit_states(
    torchscript: tuple[Server, torch.jit.ScriptModule],
) -> None:
    server, _ = torchscript
    x = np.ones((1, 4), np.float32)
    with (
        InferenceClient(server.endpoint, "sum") as client,
        client.sequence() as sequence,
    ):
        results = [*sequence.stream([x, x, x])]
    for number, result in enumerate(results, start=1):
        np.testing.assert_array_equal(result.outputs["sum__0"], number * x)


PYTHON_MODEL = """
import {module}
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([
                pb_utils.Tensor("y", -request.inputs()[0].as_numpy())
            ])
            for request in requests
        ]
"""


def write_python_model(root: Path, name: str, module: str) -> None:
    (root / name / "1").mkdir(parents=True)
    code = PYTHON_MODEL.format(module=module)
    (root / name / "1" / "model.py").write_text(code)
    write_config(
        root / name,
        'backend: "python"\n'
        + tensor("input", "x", "FP32", "-1")
        + tensor("output", "y", "FP32", "-1"),
    )


@pytest.fixture(scope="module")
def on_demand(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """Models that cannot be loaded, and one that can."""
    root = tmp_path_factory.mktemp("on-demand")
    write_python_model(root, "negative", "numpy")
    write_python_model(root, "lacking", "no_such_package")
    text = NETWORK.replace(
        '__0" data_type: TYPE_FP32', '__0" data_type: TYPE_FP64'
    )
    write_torchscript(root, "double", Network(), text)
    (root / "stateful" / "1" / "model.savedmodel").mkdir(parents=True)
    write_config(
        root / "stateful", 'platform: "tensorflow_savedmodel"\n' + SUM
    )
    with serve(root, free_ports=True, model_control="explicit") as server:
        yield server.wait(60)


def test_a_python_model_is_served_as_it_is(on_demand: Server) -> None:
    on_demand.load_model("negative")
    x = np.arange(3, dtype=np.float32)
    answer = predict(on_demand, "negative", {"x": x})
    np.testing.assert_array_equal(answer[""], -x)


def test_a_package_that_a_python_model_lacks_is_named(
    on_demand: Server,
) -> None:
    with pytest.raises(ModelControlFailed, match=r"No module .*no_such_pack"):
        on_demand.load_model("lacking")


def test_a_python_model_may_bring_its_packages(tmp_path: Path) -> None:
    write_python_model(tmp_path / "models", "lacking", "no_such_package")
    with (
        serve(tmp_path / "models", free_ports=True) as server,
        pytest.raises(ServerDied, match=r"no_such_package.*\n.*beside mod"),
    ):
        server.wait(60)
    beside = tmp_path / "models" / "lacking" / "1"
    (beside / "no_such_package.py").touch()
    with serve(tmp_path / "models", free_ports=True) as server:
        x = np.ones(2, np.float32)
        assert predict(server.wait(60), "lacking", {"x": x})[""][0] == -1


@needs("torch")
def test_torchscript_that_gives_another_type_is_refused(
    on_demand: Server,
) -> None:
    told = r"'score__0' is TYPE_FP64 of shape \[-1, 1\] in .* gives float32"
    with pytest.raises(ModelControlFailed, match=told):
        on_demand.load_model("double")


def test_a_savedmodel_with_implicit_states_is_refused(
    on_demand: Server,
) -> None:
    told = (
        "'state__1' is an implicit state, which Triton has not for a model.s"
    )
    with pytest.raises(ModelControlFailed, match=told):
        on_demand.load_model("stateful")


def test_a_runtime_without_torch_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_runtime(os.environ)
    if not isinstance(found, ManagedRuntime):
        pytest.skip("needs a managed runtime")
    prefix = tmp_path / "runtime"
    prefix.mkdir()
    for part in found.prefix.iterdir():
        if part.name != MANIFEST:
            (prefix / part.name).symlink_to(part)
    manifest = Manifest.read(found.prefix)
    assert manifest is not None
    replace(manifest, extras=(), extra_files={}).write(prefix)
    monkeypatch.setenv("HERMES_TRITON", str(prefix))
    write_torchscript(tmp_path / "models", "network", Network(), NETWORK)
    told = r"'network' is pytorch_libtorch, .* no torch; run `.*--with torch`"
    with pytest.raises(BackendMissing, match=told):
        serve(tmp_path / "models", free_ports=True)
