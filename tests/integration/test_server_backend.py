"""The onnxruntime backend on a real server, with a repository of text files.

The configurations are written by hand, as another tool would; the oracle is
numpy. tritonclient is used as it comes.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpcclient
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from hermes.aeriel.errors import RuntimeUnusable
from hermes.aeriel.serve import Server, serve
from hermes.aeriel.serve._manifest import Manifest
from hermes.aeriel.serve._runtimes import ManagedRuntime, find_runtime

pytestmark = pytest.mark.triton

Infer = Callable[..., dict[str, np.ndarray]]
X = np.arange(4, dtype=np.float32).reshape(1, 4)
SECONDS = 20

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
PATIENT = "max_sequence_idle_microseconds: 60000000"


def has_text() -> bool:
    """Triton's stub for Python 3.13 has no text."""
    try:
        runtime = find_runtime(os.environ)
    except RuntimeUnusable:
        return False
    managed = isinstance(runtime, ManagedRuntime)
    manifest = Manifest.read(runtime.prefix) if managed else None
    return manifest is None or manifest.python != "3.13"


def write_model(
    root: Path,
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    config: str | None,
    constants: Sequence[onnx.TensorProto] = (),
    filename: str = "model.onnx",
) -> None:
    def declare(tensors: dict[str, tuple[int, list[Any]]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(tensor, dtype, shape)
            for tensor, (dtype, shape) in tensors.items()
        ]

    graph = helper.make_graph(
        nodes, name, declare(inputs), declare(outputs), list(constants)
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.checker.check_model(model)
    (root / name / "1").mkdir(parents=True)
    onnx.save(model, root / name / "1" / filename)
    if config is not None:
        text = f'platform: "onnxruntime_onnx"\n{config}'
        if "instance_group" not in config:
            text += "instance_group { count: 1 kind: KIND_CPU }"
        (root / name / "config.pbtxt").write_text(text)


def add(*inputs: str, to: str) -> onnx.NodeProto:
    return helper.make_node("Add", list(inputs), [to])


def copy(tensor: str, to: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [tensor], [to])


def vector(name: str, dims: str = "4", dtype: str = "TYPE_FP32") -> str:
    return f'{{ name: "{name}" data_type: {dtype} dims: [{dims}] }}'


def state(
    name: str, dims: str = "4", dtype: str = "TYPE_FP32", initial: str = ""
) -> str:
    if initial:
        initial = (
            f'initial_state {{ name: "start" data_type: {dtype} '
            f"dims: [{dims}] {initial} }}"
        )
    return (
        f'state {{ input_name: "{name}" output_name: "{name}_out" '
        f"data_type: {dtype} dims: [{dims}] {initial} }}"
    )


def write_stateless(root: Path) -> None:
    batch = ["batch", 4]
    both = [
        add("x", "x", to="double"),
        helper.make_node("Neg", ["x"], ["neg"]),
    ]
    outputs = {"double": (FLOAT, batch), "neg": (FLOAT, batch)}
    write_model(
        root,
        "two_outputs",
        both,
        {"x": (FLOAT, batch)},
        outputs,
        f"max_batch_size: 8 input {vector('x')} output {vector('double')} "
        f"output {vector('neg')} dynamic_batching {{ }}",
    )
    write_model(root, "bare", both, {"x": (FLOAT, batch)}, outputs, None)
    write_model(
        root,
        "numbers",
        both,
        {"x": (FLOAT, ["batch"])},
        {name: (FLOAT, ["batch"]) for name in outputs},
        None,
    )
    write_model(
        root,
        "reshaped",
        [copy("x", "y")],
        {"x": (FLOAT, ["batch", 2, 2])},
        {"y": (FLOAT, ["batch", 2, 2])},
        "max_batch_size: 4 "
        'input { name: "x" data_type: TYPE_FP32 dims: [4] '
        "reshape { shape: [2, 2] } } "
        'output { name: "y" data_type: TYPE_FP32 dims: [4] '
        "reshape { shape: [2, 2] } }",
    )
    write_model(
        root,
        "renamed",
        both,
        {"x": (FLOAT, [1, 4])},
        {name: (FLOAT, [1, 4]) for name in outputs},
        'default_model_filename: "network.onnx"\n'
        'parameters { key: "intra_op_thread_count" '
        'value { string_value: "1" } }\n'
        "optimization { graph { level: -1 } }",
        filename="network.onnx",
    )
    write_model(
        root,
        "lookup",
        [helper.make_node("Gather", ["table", "index"], ["row"])],
        {"index": (INT64, ["batch", 1])},
        {"row": (FLOAT, ["batch", 1, 2])},
        f"max_batch_size: 4 input {vector('index', '1', 'TYPE_INT64')} "
        f"output {vector('row', '1, 2')}",
        [helper.make_tensor("table", FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])],
    )
    write_model(
        root,
        "total",
        [helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0)],
        {"x": (FLOAT, ["any"])},
        {"sum": (FLOAT, [])},
        f"input {vector('x', '-1')} output {vector('sum', '1')}",
    )
    if has_text():
        write_words(root)


def write_words(root: Path) -> None:
    write_model(
        root,
        "words",
        [copy("word", "same")],
        {"word": (TensorProto.STRING, ["any"])},
        {"same": (TensorProto.STRING, ["any"])},
        f"input {vector('word', '-1', 'TYPE_STRING')} "
        f"output {vector('same', '-1', 'TYPE_STRING')}",
    )


DTYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


def write_dtypes(root: Path) -> None:
    config, nodes, inputs, outputs = "", [], {}, {}
    for dtype, triton in DTYPES.items():
        number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        nodes.append(copy(f"in_{dtype}", f"out_{dtype}"))
        inputs[f"in_{dtype}"] = number, ["n", "m"]
        outputs[f"out_{dtype}"] = number, ["n", "m"]
        for kind, prefix in (("input", "in"), ("output", "out")):
            name = f"{prefix}_{dtype}"
            config += f"{kind} {vector(name, '-1, -1', f'TYPE_{triton}')}\n"
    write_model(root, "dtypes", nodes, inputs, outputs, config)


def write_sums(root: Path) -> None:
    """Models whose output and state is the sum of a sequence's inputs."""
    nodes = [add("x", "state", to="state_out"), copy("state_out", "sum")]
    for name, batch, options in (
        ("sum", 0, PATIENT),
        ("sum_of_ten", 0, PATIENT),
        ("impatient", 0, "max_sequence_idle_microseconds: 700000"),
        ("sum_direct", 4, f"direct {{ }} {PATIENT}"),
        ("sum_oldest", 4, f"oldest {{ }} {PATIENT}"),
    ):
        shape = ["batch", 4] if batch else [1, 4]
        dims = "4" if batch else "1, 4"
        start = (
            "data_file: 'ten'" if name == "sum_of_ten" else "zero_data: true"
        )
        write_model(
            root,
            name,
            nodes,
            {"x": (FLOAT, shape), "state": (FLOAT, shape)},
            {"sum": (FLOAT, shape), "state_out": (FLOAT, shape)},
            f"max_batch_size: {batch} input {vector('x', dims)} "
            f"output {vector('sum', dims)} "
            f"sequence_batching {{ {options} "
            f"{state('state', dims, initial=start)} }} "
            "instance_group { count: 2 kind: KIND_CPU }",
        )
    folder = root / "sum_of_ten" / "initial_state"
    folder.mkdir()
    (folder / "ten").write_bytes(np.full(4, 10, np.float32).tobytes())


def write_several_states(root: Path) -> None:
    # The names of inputs and outputs sort differently on purpose.
    write_model(
        root,
        "swap",
        [
            add("left", "x", to="z_left"),
            copy("right", "a_right"),
            copy("z_left", "new_right"),
            copy("a_right", "new_left"),
            copy("left", "seen_left"),
            copy("right", "seen_right"),
        ],
        {name: (FLOAT, [1]) for name in ("x", "left", "right")},
        {
            name: (FLOAT, [1])
            for name in ("new_right", "new_left", "seen_left", "seen_right")
        },
        f"input {vector('x', '1')} output {vector('seen_left', '1')} "
        f"output {vector('seen_right', '1')} sequence_batching {{ "
        'state { input_name: "left" output_name: "new_left" '
        "data_type: TYPE_FP32 dims: [1] } "
        'state { input_name: "right" output_name: "new_right" '
        "data_type: TYPE_FP32 dims: [1] } }",
    )
    write_model(
        root,
        "window_and_count",
        [
            helper.make_node("Concat", ["window", "x"], ["long"], axis=1),
            helper.make_node("Slice", ["long", "from", "to"], ["window_out"]),
            add("count", "one", to="count_out"),
            copy("count_out", "calls"),
        ],
        {
            "x": (FLOAT, [2, 3]),
            "window": (FLOAT, [2, 5]),
            "count": (INT64, [1]),
        },
        {
            "window_out": (FLOAT, [2, 5]),
            "count_out": (INT64, [1]),
            "calls": (INT64, [1]),
        },
        # the window is a state and, besides, an output
        f"input {vector('x', '2, 3')} output {vector('window_out', '2, 5')} "
        f"output {vector('calls', '1', 'TYPE_INT64')} sequence_batching {{ "
        f"{state('window', '2, 5')} {state('count', '1', 'TYPE_INT64')} }}",
        [
            helper.make_tensor("from", INT64, [2], [0, 3]),
            helper.make_tensor("to", INT64, [2], [2, 8]),
            helper.make_tensor("one", INT64, [1], [1]),
        ],
    )
    write_model(
        root,
        "fragile",
        [
            helper.make_node("Gather", ["table", "index"], ["row"]),
            add("row", "state", to="state_out"),
            copy("state_out", "sum"),
        ],
        {"index": (INT64, [1]), "state": (FLOAT, [1])},
        {"state_out": (FLOAT, [1]), "sum": (FLOAT, [1])},
        f"input {vector('index', '1', 'TYPE_INT64')} "
        f"output {vector('sum', '1')} "
        "sequence_batching { max_sequence_idle_microseconds: 60000000 "
        f"{state('state', '1')} }}",
        [helper.make_tensor("table", FLOAT, [2], [1.0, 2.0])],
    )


def write_controls(root: Path) -> None:
    controls = {"start": FLOAT, "end": TensorProto.INT32, "ready": FLOAT}
    nodes = [
        helper.make_node("Cast", [name], [f"{name}_float"], to=FLOAT)
        for name in (*controls, "corrid")
    ]
    names = [f"{name}_float" for name in (*controls, "corrid")]
    nodes.append(helper.make_node("Concat", names, ["seen"], axis=1))
    kinds = "".join(
        f'control_input {{ name: "{name}" control {{ '
        f"kind: CONTROL_SEQUENCE_{name.upper()} {values}: [0, 1] }} }} "
        for name, values in (
            ("start", "fp32_false_true"),
            ("end", "int32_false_true"),
            ("ready", "fp32_false_true"),
        )
    )
    for name, strategy in (
        ("controls", "direct { }"),
        ("controls_oldest", "oldest { }"),
    ):
        write_model(
            root,
            name,
            [*nodes, copy("x", "y")],
            {control: (dtype, ["b", 1]) for control, dtype in controls.items()}
            | {
                "corrid": (TensorProto.UINT64, ["b", 1]),
                "x": (FLOAT, ["b", 4]),
            },
            {"seen": (FLOAT, ["b", 4]), "y": (FLOAT, ["b", 4])},
            f"max_batch_size: 4 input {vector('x')} output {vector('seen')} "
            f"output {vector('y')} sequence_batching {{ {strategy} {kinds}"
            'control_input { name: "corrid" control { '
            "kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } } "
            "max_sequence_idle_microseconds: 60000000 } "
            "instance_group { count: 1 kind: KIND_CPU }",
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("models")
    write_stateless(root)
    write_dtypes(root)
    write_sums(root)
    write_several_states(root)
    write_controls(root)
    with serve(root, free_ports=True) as server:
        yield server.wait(120)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(server.endpoint.grpc) as client:
        yield client


@pytest.fixture
def infer(client: grpcclient.InferenceServerClient) -> Infer:
    def infer(
        model: str, outputs: Sequence[str] | None = None, **options: Any
    ) -> dict[str, np.ndarray]:
        sequence = {
            name: options.pop(name)
            for name in ("sequence_id", "sequence_start", "sequence_end")
            if name in options
        }
        tensors = []
        for name, array in options.items():
            tensor = grpcclient.InferInput(
                name, list(array.shape), np_to_triton_dtype(array.dtype)
            )
            tensors.append(tensor.set_data_from_numpy(array))
        wanted = outputs and [
            grpcclient.InferRequestedOutput(name) for name in outputs
        ]
        answer = client.infer(
            model, tensors, outputs=wanted, client_timeout=SECONDS, **sequence
        )
        names = [output.name for output in answer.get_response().outputs]
        return {name: answer.as_numpy(name) for name in names}

    return infer


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_every_output_is_returned_by_default(infer: Infer) -> None:
    answer = infer("two_outputs", x=X)
    np.testing.assert_array_equal(answer["double"], X + X)
    np.testing.assert_array_equal(answer["neg"], -X)


def test_only_requested_outputs_are_returned(infer: Infer) -> None:
    assert list(infer("two_outputs", ["neg"], x=X)) == ["neg"]


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_request_may_have_several_rows(infer: Infer, size: int) -> None:
    x = np.random.default_rng(size).normal(size=(size, 4)).astype(np.float32)
    np.testing.assert_array_equal(infer("two_outputs", x=x)["neg"], -x)


def test_a_model_without_configuration_is_served(
    infer: Infer, client: grpcclient.InferenceServerClient
) -> None:
    config = client.get_model_config("bare", as_json=True)["config"]
    assert config["max_batch_size"] == 4
    assert "dynamic_batching" in config
    x = np.concatenate([X, X + 1])
    np.testing.assert_array_equal(infer("bare", x=x)["double"], x + x)


def test_a_batch_of_numbers_is_served(infer: Infer) -> None:
    x = np.arange(3, dtype=np.float32).reshape(3, 1)
    np.testing.assert_array_equal(infer("numbers", x=x)["double"], x + x)


def test_tensors_are_reshaped(infer: Infer) -> None:
    np.testing.assert_array_equal(infer("reshaped", x=X)["y"], X)


def test_a_short_configuration_is_completed(
    infer: Infer, client: grpcclient.InferenceServerClient
) -> None:
    config = client.get_model_config("renamed", as_json=True)["config"]
    assert config["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": ["1", "4"]}
    ]
    np.testing.assert_array_equal(infer("renamed", x=X)["neg"], -X)


def test_a_bad_request_fails_alone(infer: Infer) -> None:
    for _ in range(3):
        good = infer("lookup", index=numbers(1).reshape(1, 1))
        np.testing.assert_array_equal(good["row"], [[[3.0, 4.0]]])
        with pytest.raises(InferenceServerException, match="out of"):
            infer("lookup", index=numbers(7).reshape(1, 1))


def test_a_bad_request_fails_alone_among_concurrent_ones(
    client: grpcclient.InferenceServerClient,
) -> None:
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for number in range(40):
        index = grpcclient.InferInput("index", [1, 1], "INT64")
        index.set_data_from_numpy(numbers(number % 4).reshape(1, 1))
        client.async_infer(
            "lookup",
            [index],
            lambda result, error, number=number: answers.put(
                (number, result, error)
            ),
            client_timeout=SECONDS,
        )
    for _ in range(40):
        number, result, error = answers.get(timeout=SECONDS)
        if number % 4 < 2:
            row = [[[1.0, 2.0]], [[3.0, 4.0]]][number % 4]
            np.testing.assert_array_equal(result.as_numpy("row"), [row])
        else:
            assert "out of" in str(error)


def test_a_scalar_output_has_the_shape_of_the_configuration(
    infer: Infer,
) -> None:
    total = infer("total", x=X[0])["sum"]
    np.testing.assert_array_equal(total, [6.0])


def test_an_empty_tensor_is_a_tensor(infer: Infer) -> None:
    empty = np.zeros(0, np.float32)
    np.testing.assert_array_equal(infer("total", x=empty)["sum"], [0.0])


@pytest.mark.parametrize("shape", [(2, 3), (1, 1), (0, 3)])
def test_every_dtype_keeps_its_values(
    infer: Infer, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        dtype: rng.integers(0, 2 if dtype == "bool" else 100, shape).astype(
            dtype
        )
        for dtype in DTYPES
    }
    answer = infer(
        "dtypes", **{f"in_{dtype}": array for dtype, array in arrays.items()}
    )
    for dtype, array in arrays.items():
        assert answer[f"out_{dtype}"].dtype == array.dtype
        np.testing.assert_array_equal(answer[f"out_{dtype}"], array)


@pytest.mark.skipif(not has_text(), reason="Python 3.13 has no text")
def test_text_of_any_length_comes_back(infer: Infer) -> None:
    words = np.array(["", "naïve", "a" * 5000, "日本"], np.object_)
    same = infer("words", word=words)["same"]
    assert [item.decode() for item in same] == list(words)


@pytest.mark.skipif(not has_text(), reason="Python 3.13 has no text")
def test_text_that_is_not_utf8_is_refused(infer: Infer) -> None:
    with pytest.raises(InferenceServerException, match="not UTF-8"):
        infer("words", word=np.array([b"\xff"], np.object_))


@pytest.mark.parametrize("sequence_id", [5, 2**63 - 1, "five", "五"])
@pytest.mark.parametrize("model", ["sum", "sum_direct", "sum_oldest"])
def test_a_state_is_carried_from_request_to_request(
    infer: Infer, model: str, sequence_id: int | str
) -> None:
    for number in range(1, 5):
        answer = infer(
            model,
            x=X,
            sequence_id=sequence_id,
            sequence_start=number == 1,
            sequence_end=number == 4,
        )
        assert list(answer) == ["sum"]
        np.testing.assert_array_equal(answer["sum"], number * X)


def test_sequences_do_not_see_each_other(infer: Infer) -> None:
    for number in range(1, 4):
        for sequence_id in (21, "21", 22):
            scale = 3 if sequence_id == 22 else 1
            answer = infer(
                "sum_oldest",
                x=scale * X,
                sequence_id=sequence_id,
                sequence_start=number == 1,
                sequence_end=number == 3,
            )
            expected = number * scale * X
            np.testing.assert_array_equal(answer["sum"], expected)


def test_start_begins_anew(infer: Infer) -> None:
    for _ in range(3):
        answer = infer("sum", x=X, sequence_id=31, sequence_start=True)
        np.testing.assert_array_equal(answer["sum"], X)


def test_a_state_starts_from_its_file(infer: Infer) -> None:
    for number in range(1, 3):
        answer = infer(
            "sum_of_ten",
            x=X,
            sequence_id=41,
            sequence_start=number == 1,
            sequence_end=number == 2,
        )
        np.testing.assert_array_equal(answer["sum"], 10 + number * X)


def test_a_request_after_the_end_needs_start(infer: Infer) -> None:
    infer("sum", x=X, sequence_id=51, sequence_start=True, sequence_end=True)
    with pytest.raises(InferenceServerException, match=r"51.*START"):
        infer("sum", x=X, sequence_id=51)


def test_an_idle_sequence_is_forgotten(infer: Infer) -> None:
    infer("impatient", x=X, sequence_id=61, sequence_start=True)
    answer = infer("impatient", x=X, sequence_id=61)
    np.testing.assert_array_equal(answer["sum"], 2 * X)
    time.sleep(2.0)
    with pytest.raises(InferenceServerException, match=r"61.*START"):
        infer("impatient", x=X, sequence_id=61)
    answer = infer("impatient", x=X, sequence_id=61, sequence_start=True)
    np.testing.assert_array_equal(answer["sum"], X)


def test_states_of_one_shape_are_paired_by_name(infer: Infer) -> None:
    left = right = 0.0
    for number in range(1, 6):
        x = np.array([number], np.float32)
        answer = infer(
            "swap",
            x=x,
            sequence_id=71,
            sequence_start=number == 1,
            sequence_end=number == 5,
        )
        assert answer["seen_left"] == [left]
        assert answer["seen_right"] == [right]
        left, right = right, left + number


def test_states_may_differ_in_shape_and_type(infer: Infer) -> None:
    window = np.zeros((2, 5), np.float32)
    for number in range(1, 5):
        x = np.arange(6, dtype=np.float32).reshape(2, 3) * number
        window = np.concatenate([window, x], axis=1)[:, 3:]
        answer = infer(
            "window_and_count",
            x=x,
            sequence_id=81,
            sequence_start=number == 1,
            sequence_end=number == 4,
        )
        np.testing.assert_array_equal(answer["window_out"], window)
        assert answer["calls"] == [number]


def test_a_failed_request_leaves_the_state_alone(infer: Infer) -> None:
    options: dict[str, Any] = {"sequence_id": 91}
    infer("fragile", index=numbers(1), sequence_start=True, **options)
    with pytest.raises(InferenceServerException, match="out of"):
        infer("fragile", index=numbers(9), **options)
    answer = infer("fragile", index=numbers(0), sequence_end=True, **options)
    assert answer["sum"] == [3.0]


def test_a_failed_start_leaves_the_initial_state(infer: Infer) -> None:
    options: dict[str, Any] = {"sequence_id": 92}
    infer("fragile", index=numbers(1), sequence_start=True, **options)
    with pytest.raises(InferenceServerException, match="out of"):
        infer("fragile", index=numbers(9), sequence_start=True, **options)
    answer = infer("fragile", index=numbers(0), sequence_end=True, **options)
    assert answer["sum"] == [1.0]


@pytest.mark.parametrize("model", ["controls", "controls_oldest"])
def test_the_graph_is_given_the_control_inputs(
    infer: Infer, model: str
) -> None:
    for sequence_id, number in ((3, 0), (4, 0), (3, 1), (4, 1), (3, 2)):
        answer = infer(
            model,
            x=X,
            sequence_id=sequence_id,
            sequence_start=number == 0,
            sequence_end=number == 2,
        )
        expected = [[number == 0, number == 2, 1, sequence_id]]
        np.testing.assert_array_equal(answer["seen"], expected)
        np.testing.assert_array_equal(answer["y"], X)


def test_more_sequences_than_slots_all_come_through(
    client: grpcclient.InferenceServerClient,
) -> None:
    """Eight slots of the direct strategy, sixteen sequences at once."""
    failures: list[object] = []

    def run(sequence_id: int) -> None:
        try:
            for number in range(1, 21):
                tensor = grpcclient.InferInput("x", [1, 4], "FP32")
                tensor.set_data_from_numpy(X * sequence_id)
                answer = client.infer(
                    "sum_direct",
                    [tensor],
                    sequence_id=sequence_id,
                    sequence_start=number == 1,
                    sequence_end=number == 20,
                    client_timeout=SECONDS,
                )
                expected = number * sequence_id * X
                np.testing.assert_array_equal(answer.as_numpy("sum"), expected)
        except Exception as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_the_log_has_no_errors_of_python(server: Server) -> None:
    assert "Traceback" not in server.logs()
