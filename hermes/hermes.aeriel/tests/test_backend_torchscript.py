"""What runs TorchScript, without Triton.

On a real server it runs in ``tests/integration/test_server_frameworks.py``.
"""

import importlib
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hermes.aeriel.serve._manifest import SOURCES

torch = pytest.importorskip("torch")

Config = dict[str, Any]


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> Any:
    for folder in ("python", "pytorch"):
        monkeypatch.syspath_prepend(SOURCES / "backends" / folder)

    def backends(name: str) -> ModuleType:
        return importlib.import_module(f"hermes_{name}")

    return backends


@pytest.fixture
def errors(backends: Any) -> Any:
    return backends("states")


def entry(name: str, *dims: int, dtype: str = "FP32") -> Config:
    return {"name": name, "data_type": f"TYPE_{dtype}", "dims": list(dims)}


def config(
    inputs: list[Config], outputs: list[Config], **fields: Any
) -> Config:
    found = {"max_batch_size": 0, "input": inputs, "output": outputs}
    return {**found, **fields}


def state(name: str, output: str) -> Config:
    fields = {"input_name": name, "output_name": output}
    return {**fields, "data_type": "TYPE_FP32", "dims": [4]}


class Add(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + 2 * y


class Split(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return -x, x[:, :1]


class FromDict(torch.nn.Module):
    def forward(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        return tensors["left"] - tensors["right"]


class ToDict(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x}


class ToList(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[list[torch.Tensor], int]:
        return [x], 1


class Scaled(torch.nn.Module):
    def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        return x * scale


class Half(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.bfloat16)


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * 0 + self.calls


class Choosy(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x == 0).any()):
            raise ValueError("no zeros")
        return 1 / x


def save(folder: Path, module: torch.nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript's future
        torch.jit.script(module).save(str(folder / "model.pt"))
    return folder / "model.pt"


@pytest.fixture
def load(backends: Any, tmp_path: Path) -> Any:
    def load(module: torch.nn.Module, given: Config) -> Any:
        return backends("torchscript").TorchScript(
            save(tmp_path, module), given
        )

    return load


X = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
Y = X * X


@pytest.mark.parametrize(
    "names", [("x", "y"), ("in__0", "in__1"), ("a", "b"), ("a__0", "b")]
)
def test_inputs_are_named_like_arguments_or_numbered_or_in_order(
    load: Any, names: tuple[str, str]
) -> None:
    inputs = [entry(name, -1, 4) for name in names]
    runner = load(Add(), config(inputs, [entry("out", -1, 4)]))
    feeds = dict(zip(names, (X, Y), strict=True))
    (out,) = runner.run(["out"], feeds)
    np.testing.assert_array_equal(out, X + 2 * Y)


@pytest.mark.parametrize("names", [("y", "x"), ("in__1", "in__0")])
def test_the_order_of_named_and_numbered_inputs_is_free(
    load: Any, names: tuple[str, str]
) -> None:
    inputs = [entry(name, -1, 4) for name in names]
    runner = load(Add(), config(inputs, [entry("out", -1, 4)]))
    (out,) = runner.run(["out"], dict(zip(names, (Y, X), strict=True)))
    np.testing.assert_array_equal(out, X + 2 * Y)


@pytest.mark.parametrize("names", [("a__0", "a__1"), ("head", "tail")])
def test_outputs_are_numbered_or_in_order(
    load: Any, names: tuple[str, str]
) -> None:
    outputs = [entry(names[0], -1, 4), entry(names[1], -1, 1)]
    runner = load(Split(), config([entry("x", -1, 4)], outputs))
    last, first = runner.run([names[1], names[0]], {"x": X})
    np.testing.assert_array_equal(first, -X)
    np.testing.assert_array_equal(last, X[:, :1])


def test_a_dict_of_tensors_is_given_by_name(load: Any) -> None:
    inputs = [entry("right", 4), entry("left", 4)]
    given = config(inputs, [entry("out__0", 4)], max_batch_size=2)
    (out,) = load(FromDict(), given).run(["out__0"], {"left": X, "right": Y})
    np.testing.assert_array_equal(out, X - Y)


def test_states_and_controls_are_numbered(load: Any) -> None:
    batching = {"state": [state("s__1", "t__0")]}
    given = config([entry("x__0", 4)], [], sequence_batching=batching)
    given["output"] = [entry("t__0", 4)]
    (out,) = load(Add(), given).run(["t__0"], {"x__0": X[0], "s__1": Y[0]})
    np.testing.assert_array_equal(out, X[0] + 2 * Y[0])
    control = {
        "name": "start__1",
        "control": [
            {"kind": "CONTROL_SEQUENCE_START", "fp32_false_true": [0, 1]}
        ],
    }
    given["sequence_batching"] = {"control_input": [control]}
    (out,) = load(Add(), given).run(
        ["t__0"], {"x__0": X[0], "start__1": X[0, :1]}
    )
    np.testing.assert_array_equal(out, X[0] + 2)


@pytest.mark.parametrize("dtype", ["BOOL", "UINT8", "INT16", "FP16", "FP64"])
def test_torch_keeps_the_types_that_it_shares_with_numpy(
    load: Any, errors: Any, dtype: str
) -> None:
    given = config(
        [entry("input", 2, 4, dtype=dtype)],
        [entry("output", 2, 4, dtype=dtype)],
    )
    array = (X % 2).astype(errors.DTYPES[f"TYPE_{dtype}"])
    (found,) = load(torch.nn.Identity(), given).run(
        ["output"], {"input": array}
    )
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_trying_it_out_leaves_no_trace(load: Any) -> None:
    runner = load(Counting(), config([entry("x", 1)], [entry("y", 1)]))
    (first,) = runner.run(["y"], {"x": X[0, :1]})
    assert first == [1.0]


def test_a_module_that_takes_no_zeros_is_loaded(
    load: Any, errors: Any
) -> None:
    runner = load(Choosy(), config([entry("x", 4)], [entry("y", 4)]))
    (found,) = runner.run(["y"], {"x": X[0]})
    np.testing.assert_array_equal(found, 1 / X[0])
    with pytest.raises(errors.RequestError, match=r"(?s)torch: .*no zeros"):
        runner.run(["y"], {"x": 0 * X[0]})


def test_an_output_of_another_shape_is_an_error(
    load: Any, errors: Any
) -> None:
    runner = load(
        torch.nn.Identity(), config([entry("x", -1, -1)], [entry("y", 2, 4)])
    )
    runner.run(["y"], {"x": X})
    told = (
        r"'y' is TYPE_FP32 of shape \[2, 4\] in .* float32 of shape \[4, 2\]"
    )
    with pytest.raises(errors.RequestError, match=told):
        runner.run(["y"], {"x": X.T})


@pytest.mark.parametrize(
    ("module", "inputs", "outputs", "expected"),
    [
        (Add(), [entry("x", 4)], None, r"takes x, y, .* has x; .* x__0, x__1"),
        (
            Add(),
            [entry("x__0", 4), entry("y__2", 4)],
            None,
            "has x__0, y__2; name the inputs like its arguments",
        ),
        (
            Add(),
            [entry("x", 4), entry("y", 4), entry("z", 4)],
            None,
            "the module takes x, y, but the configuration has x, y, z",
        ),
        (
            Split(),
            None,
            [entry("y__2", 4)],
            r"gives 2 tensor.* has y__2; call",
        ),
        (Split(), None, [entry("y__0", 4, dtype="FP64")], "float32 of shape"),
        (
            Split(),
            None,
            [entry("y__0", 5)],
            r"but the model gives .* \[1, 4\]",
        ),
        (Split(), [entry("x", 4, dtype="UINT32")], None, "'x' is TYPE_UINT32"),
        (
            Split(),
            None,
            [entry("y", 4, dtype="BF16")],
            "'y' is TYPE_BF16: the",
        ),
        (Split(), [], None, "must have input and output: a TorchScript"),
        (Half(), None, None, "the model gives bfloat16"),
        (ToDict(), None, None, r"module gives Dict\[str, Tensor\]: Triton"),
        (ToList(), None, None, r"module gives Tuple\[List\[Tensor\], int\]"),
        (Scaled(), None, None, "argument 'scale' of the module is float"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(
    load: Any,
    errors: Any,
    module: torch.nn.Module,
    inputs: list[Config] | None,
    outputs: list[Config] | None,
    expected: str,
) -> None:
    given = config(
        [entry("x", 4)] if inputs is None else inputs,
        [entry("y", 4)] if outputs is None else outputs,
        max_batch_size=4,
    )
    with pytest.raises(errors.LoadError, match=expected):
        load(module, given)


def test_states_without_numbers_are_refused(load: Any, errors: Any) -> None:
    batching = {"state": [state("s", "t__0")]}
    given = config(
        [entry("x__0", 4)], [entry("t__0", 4)], sequence_batching=batching
    )
    with pytest.raises(errors.LoadError, match="'s' must end with __ and a"):
        load(Add(), given)


def test_a_file_that_is_no_torchscript_is_refused(
    backends: Any, errors: Any, tmp_path: Path
) -> None:
    (tmp_path / "model.pt").write_text("junk")
    given = config([entry("x", 4)], [entry("y", 4)])
    with pytest.raises(errors.LoadError, match="torch cannot load"):
        backends("torchscript").TorchScript(tmp_path / "model.pt", given)


def test_a_number_of_threads_that_is_none_is_refused(
    load: Any, errors: Any
) -> None:
    given = config([entry("x", 4)], [entry("y", 4)])
    given["parameters"] = {"INTRA_OP_THREAD_COUNT": {"string_value": "all"}}
    with pytest.raises(errors.LoadError, match="must be a count, got 'all'"):
        load(torch.nn.Identity(), given)


def test_a_framework_that_is_not_there_is_named(
    backends: Any, errors: Any
) -> None:
    told = "cannot import no_such .* install --with no_such`"
    with pytest.raises(errors.LoadError, match=told):
        backends("configuration").load_framework("no_such")
