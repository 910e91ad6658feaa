"""Keras and TensorFlow networks, exported, run and compared."""

import contextlib
import dataclasses
import json
import logging
import os
import random
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest

from hermes.quiver import ModelRepository, Platform
from hermes.quiver.errors import (
    DtypeMismatch,
    ExportFailed,
    InvalidConfig,
    InvalidInput,
    UnsupportedExport,
    VerificationFailed,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tf = pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")

layers = keras.layers
BOTH = [Platform.ONNX, Platform.SAVEDMODEL]


def randn(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def run(path: str, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Run an artifact from its address, as a server does."""
    if path.endswith(".onnx"):
        session = onnxruntime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, arrays), strict=True))
    loaded = tf.saved_model.load(path)
    results = loaded.signatures["serving_default"](
        **{name: tf.constant(array) for name, array in arrays.items()}
    )
    return {name: result.numpy() for name, result in results.items()}


def chain(*more, shape=(4,), **options) -> keras.Sequential:
    return keras.Sequential([layers.Input(shape, **options), *more])


def detector() -> keras.Model:
    """Two inputs and named outputs; dropout and batch norm train."""
    strain = layers.Input((16, 2), name="strain")
    witness = layers.Input((3,), name="witness")
    x = layers.BatchNormalization()(layers.Conv1D(4, 3)(strain))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling1D()(x))
    both = layers.Concatenate()([x, witness])
    return keras.Model(
        [strain, witness],
        {
            "score": layers.Dense(1, activation="sigmoid")(both),
            "kind": layers.Dense(3, activation="softmax")(both),
        },
    )


class Sub(keras.Model):
    """Its inputs are only known from calls; it would rather train."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3)
        self.drop = layers.Dropout(0.5)

    def call(self, x, training=True):
        return self.drop(self.dense(x), training=training)


class Pair(Sub):
    def call(self, x, y):
        return {"sum": self.dense(x) + self.dense(y), "first": x}


class Named(Sub):
    def call(self, inputs):
        return self.dense(inputs["a"]) - self.dense(inputs["b"])


class Listed(Sub):
    def call(self, inputs):
        return self.dense(inputs[0]) - self.dense(inputs[1]), inputs[0]


class Gain(tf.Module):
    """Holds a variable, and a tensor that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = tf.Variable(2.0)
        self.offset = tf.constant([1.0, 2.0, 3.0, 4.0])
        self.shape = tf.constant([-1, 2, 2])

    def __call__(self, x):
        if tf.reduce_sum(x) > 0:  # Python that only autograph understands
            x = -x
        return tf.reshape(x * self.gain + self.offset, self.shape)


class Signed(Gain):
    @tf.function(
        input_signature=[tf.TensorSpec((None, 4), tf.float32, name="strain")]
    )
    def __call__(self, x):
        return {"scaled": x * self.gain + self.offset}


@pytest.fixture
def add(repository):
    counter = iter(range(100))
    return lambda platform: repository.add(f"m{next(counter)}", platform)


@pytest.mark.parametrize("platform", BOTH)
def test_names_shapes_and_values_are_the_networks(add, platform) -> None:
    model, network = add(platform), detector()
    path = model.export_version(network)
    assert {n: t.shape for n, t in model.inputs.items()} == {
        "strain": (None, 16, 2),
        "witness": (None, 3),
    }
    assert {n: t.shape for n, t in model.outputs.items()} == {
        "score": (None, 1),
        "kind": (None, 3),
    }
    for size in 1, 7:
        arrays = {"strain": randn(size, 16, 2), "witness": randn(size, 3)}
        expected = network(arrays, training=False)
        actual = run(path, **arrays)
        for name in model.outputs:
            np.testing.assert_allclose(
                actual[name], expected[name], rtol=1e-4, atol=1e-6
            )


def test_a_savedmodel_is_whole_in_a_bucket_too() -> None:
    repository = ModelRepository("memory://savedmodels", clean=True)
    model = repository.add("m", Platform.SAVEDMODEL)
    model.config.max_batch_size = 4
    model.export_version(chain(layers.Dense(2)))
    files = model._storage._find(f"{model._storage._path('m', 1)}")
    assert {name.split("/m/1/")[1] for name in files} == {
        "model.savedmodel/saved_model.pb",
        "model.savedmodel/fingerprint.pb",
        "model.savedmodel/variables/variables.index",
        "model.savedmodel/variables/variables.data-00000-of-00001",
    }
    assert list(model.config.input[0].dims) == [4]


def test_a_savedmodel_leaves_the_optimizer_out(add) -> None:
    network = chain(layers.Dense(64), shape=(64,))
    network.compile("adam", "mse")
    network.train_on_batch(randn(2, 64), randn(2, 64))
    path = add(Platform.SAVEDMODEL).export_version(network)
    names = {
        name
        for name, _ in tf.train.list_variables(f"{path}/variables/variables")
    }
    assert len(names) == 3  # kernel, bias, the graph of objects


@pytest.mark.parametrize(
    ("platform", "layer"), [*zip(BOTH, [layers.LSTM, layers.GRU], strict=True)]
)
def test_recurrent_networks_take_any_length(add, platform, layer) -> None:
    network = chain(layer(3, return_sequences=True), shape=(None, 2), name="x")
    model = add(platform)
    path = model.export_version(network, output_names=["y"])
    assert model.inputs["x"].shape == (None, None, 2)
    assert model.outputs["y"].shape == (None, None, 3)
    for length in 1, 9:
        x = randn(2, length, 2)
        np.testing.assert_allclose(
            run(path, x=x)["y"], network(x), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    ("network", "arguments", "inputs", "outputs"),
    [
        (Sub, {"input_shapes": [(None, 4)]}, ["x"], ["output_0"]),
        (Sub, {"sample_inputs": {"x": randn(1, 4)}}, ["x"], ["output_0"]),
        (Sub, {"sample_inputs": randn(1, 4)}, ["x"], ["output_0"]),
        (
            Pair,
            {"input_shapes": {"y": (-1, 4), "x": (-1, 4)}},
            ["x", "y"],
            ["sum", "first"],
        ),
        (
            Named,
            {"input_shapes": {"b": (None, 4), "a": (None, 4)}},
            ["b", "a"],
            ["output_0"],
        ),
        (
            Listed,
            {"input_shapes": [(None, 4)] * 2, "input_names": ["h", "l"]},
            ["h", "l"],
            ["output_0", "output_1"],
        ),
        (
            Listed,
            {"sample_inputs": [randn(2, 4)] * 2, "output_names": ["d", "h"]},
            ["inputs_0", "inputs_1"],
            ["d", "h"],
        ),
    ],
)
def test_subclassed_networks_are_described_as_they_are_called(
    add, network, arguments, inputs, outputs
) -> None:
    model = add(Platform.ONNX)
    model.export_version(network(), **arguments)
    assert list(model.inputs) == inputs
    assert list(model.outputs) == outputs
    assert {t.shape for t in model.inputs.values()} == {(None, 4)}


def test_a_network_that_was_called_knows_its_shapes(add) -> None:
    for network, arrays in (
        (Sub(), randn(2, 4)),
        (Named(), {"a": randn(2, 4), "b": randn(2, 4)}),
        (keras.Sequential([layers.Dense(2)]), randn(2, 4)),
    ):
        network(arrays)
        model = add(Platform.SAVEDMODEL)
        model.export_version(network)
        assert {t.shape for t in model.inputs.values()} == {(None, 4)}


def test_what_nobody_named_is_called_as_in_the_first_version(add) -> None:
    model = add(Platform.ONNX)
    for _ in range(2):
        model.export_version(chain(layers.Dense(2)))
    assert model.versions == [1, 2]
    with pytest.raises(InvalidConfig, match="declared dense"):
        model.export_version(chain(layers.Dense(2, name="chosen")))


@pytest.mark.parametrize("platform", BOTH)
def test_modules_and_functions_of_tensorflow(add, platform) -> None:
    x, gain = randn(3, 4), Gain()
    path = add(platform).export_version(gain, input_shapes=[(None, 4)])
    np.testing.assert_allclose(run(path, x=x)["output_0"], gain(x), rtol=1e-6)

    signed = Signed()
    for network in (signed, signed.__call__.get_concrete_function()):
        model = add(platform)
        path = model.export_version(network)
        assert list(model.inputs) == ["strain"]
        np.testing.assert_allclose(
            run(path, strain=x)["scaled"], signed(x)["scaled"], rtol=1e-6
        )


def test_a_savedmodel_that_was_loaded_can_be_exported(add) -> None:
    path = add(Platform.SAVEDMODEL).export_version(Signed())
    model = add(Platform.ONNX)
    model.export_version(tf.saved_model.load(path))
    assert list(model.inputs) == ["strain"]
    assert list(model.outputs) == ["scaled"]


@pytest.mark.parametrize("platform", BOTH)
@pytest.mark.parametrize(
    ("policy", "dtype"),
    [("mixed_float16", "float16"), ("float64", "float64")],
)
def test_other_precisions(add, platform, policy, dtype) -> None:
    network = chain(layers.Dense(2, dtype=policy), dtype="float64")
    model = add(platform)
    model.export_version(network)
    assert next(iter(model.inputs.values())).dtype == np.float64
    assert next(iter(model.outputs.values())).dtype == dtype


@pytest.mark.filterwarnings("ignore")  # Keras' own
def test_quantised_networks(add) -> None:
    network = chain(layers.Dense(16, activation="relu"), layers.Dense(2))
    network.quantize("int8")
    for platform in BOTH:
        add(platform).export_version(network)


def test_whole_numbers_and_truth_values(add) -> None:
    tokens = layers.Input((5,), dtype="int32", name="tokens")
    mask = layers.Input((5,), dtype="bool", name="mask")
    kept = keras.ops.cast(keras.ops.expand_dims(mask, -1), "float32")
    network = keras.Model(
        [tokens, mask], layers.Embedding(10, 4)(tokens) * kept
    )
    model = add(Platform.ONNX)
    path = model.export_version(
        network,
        sample_inputs={"tokens": [[1, 2, 3, 4, 5]], "mask": [[True] * 5]},
        output_names=["y"],
    )
    assert [t.dtype for t in model.inputs.values()] == [np.int32, np.bool_]
    arrays = {
        "tokens": np.arange(10, dtype=np.int32).reshape(2, 5),
        "mask": np.arange(10).reshape(2, 5) % 3 == 0,
    }
    np.testing.assert_array_equal(
        run(path, **arrays)["y"], network(arrays).numpy()
    )


def test_operators_that_tf2onnx_lacks_are_written_here(add) -> None:
    add(Platform.ONNX).export_version(
        chain(
            layers.Conv1D(4, 3, groups=2, activation="gelu"),
            layers.Activation("celu"),
            shape=(8, 4),
        )
    )


def test_keras_applications(add) -> None:
    network = keras.applications.MobileNet(
        weights=None, input_shape=(32, 32, 3), classes=2, alpha=0.25
    )
    add(Platform.ONNX).export_version(network, opset_version=13)


def test_the_opset_can_be_chosen(add) -> None:
    network = chain(layers.Dense(2))
    for asked, opset in ((13, 13), (18, 18), (None, 15)):
        path = add(Platform.ONNX).export_version(network, opset_version=asked)
        versions = {o.domain: o.version for o in onnx.load(path).opset_import}
        assert versions[""] == opset


def test_a_fixed_batch_stays_fixed(add) -> None:
    model = add(Platform.ONNX)
    model.export_version(
        chain(layers.Dense(2)), input_shapes=[(3, 4)], input_names=["x"]
    )
    assert model.inputs["x"].shape == (3, 4)
    assert next(iter(model.outputs.values())).shape == (3, 2)


def test_a_training_goes_on_as_if_nothing_was_exported(add) -> None:
    def train(export: bool) -> list[np.ndarray]:
        keras.utils.set_random_seed(0)
        network = chain(
            layers.BatchNormalization(),
            layers.LSTM(2, stateful=True),
            layers.Dropout(0.5),
            layers.Dense(1),
            shape=None,
            batch_shape=(4, 5, 2),
        )
        network.compile("adam", "mse")
        for step in range(2):
            network.train_on_batch(randn(4, 5, 2), randn(4, 1))
            if export and not step:
                for platform in BOTH:
                    add(platform).export_version(network)
        drawn = tf.random.uniform((2,)).numpy(), np.random.rand(2)
        states = [variable.numpy() for variable in network.variables]
        optimizer = [v.numpy() for v in network.optimizer.variables]
        return [*states, *optimizer, *drawn, np.array(random.random())]

    policy = keras.mixed_precision.dtype_policy()
    environment = dict(os.environ)
    for ours, theirs in zip(train(True), train(False), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert keras.mixed_precision.dtype_policy() == policy
    assert dict(os.environ) == environment
    assert tf.executing_eagerly()


def test_what_a_module_counts_is_not_counted_for_an_export(add) -> None:
    class Counting(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = tf.Variable(0.0)

        def __call__(self, x):
            self.calls.assign_add(1.0)
            return x * 2

    network = Counting()
    add(Platform.SAVEDMODEL).export_version(network, input_shapes=[(None, 4)])
    assert network.calls.numpy() == 0
    with pytest.raises(ExportFailed, match="of node AssignAddVariableOp"):
        add(Platform.ONNX).export_version(network, input_shapes=[(None, 4)])
    assert network.calls.numpy() == 0


def test_an_export_says_nothing(add, capfd, caplog) -> None:
    root = logging.getLogger()
    handlers, filters = [*root.handlers], [*root.filters]
    network = chain(layers.Dense(2, dtype="float16"))  # tf2onnx warns of it
    capfd.readouterr()
    for platform in BOTH:
        add(platform).export_version(network)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert (root.handlers, root.filters) == (handlers, filters)


def test_what_others_write_meanwhile_is_not_lost(capfd) -> None:
    from hermes.quiver.exporters._tensorflow import quietly

    ours = b"a line of another thread\n"
    error = b"2026-01-01 10:00:00.123456: E external/x.cc:1] broken\n"
    chatter = (
        b"2026-01-01 10:00:00.123456: I tensorflow/x.cc:1] hello\n"
        b"I0000 00:00:1795816024.914890   12933 devices.cc:67] GPUs: 0\n"
    )
    with quietly():
        os.write(2, ours + error + chatter)
    assert capfd.readouterr().err.encode() == ours
    with contextlib.suppress(ZeroDivisionError), quietly():
        os.write(2, ours + error + chatter)
        raise ZeroDivisionError
    assert capfd.readouterr().err.encode() == ours + error


def in_process(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_the_import_says_nothing_and_changes_nothing() -> None:
    output = in_process(
        """
        import os
        before = dict(os.environ)
        import hermes.quiver.exporters.tensorflow
        print(dict(os.environ) == before)
        """
    )
    assert output == "True\n"


def test_another_backend_of_keras_is_refused_with_the_way_out() -> None:
    from hermes.quiver.exporters.keras import _tensorflow

    with pytest.raises(
        UnsupportedExport, match=r"runs on jax here.* KERAS_BACKEND=tensorflow"
    ):
        _tensorflow("jax")


@dataclasses.dataclass
class Result:
    value: object


class Returns(tf.Module):
    def __init__(self, make) -> None:
        super().__init__()
        self.make = make

    def __call__(self, x):
        return self.make(x)


def test_results_are_named_by_what_they_are_in(add) -> None:
    model = add(Platform.SAVEDMODEL)
    network = Returns(lambda x: [x, Result({"a": x, "b": (x, x)}), None])
    model.export_version(network, input_shapes=[(None, 4)])
    assert list(model.outputs) == [
        "output_0",
        "output_1_value_a",
        "output_1_value_b_0",
        "output_1_value_b_1",
    ]


class Anything(tf.Module):
    def __call__(self, *tensors):
        return tensors[0]


@pytest.mark.parametrize("platform", BOTH)
def test_a_mask_and_keywords_are_tensors_where_they_are_described(
    add, platform
) -> None:
    class Gate(tf.Module):
        def __call__(self, strain, mask, *, gain=None):
            return strain * mask if gain is None else strain * mask * gain

    shape = (None, 4)
    for names in (["strain", "mask"], ["strain", "gain", "mask"]):
        model = add(platform)
        path = model.export_version(
            Gate(), input_shapes=dict.fromkeys(names, shape)
        )
        arrays = {name: randn(2, 4) + len(name) for name in names}
        (result,) = run(path, **arrays).values()
        np.testing.assert_allclose(
            result, np.prod([*arrays.values()], axis=0), rtol=1e-5
        )


def test_a_network_may_take_any_number_of_tensors(add) -> None:
    model = add(Platform.SAVEDMODEL)
    model.export_version(Anything(), input_shapes=[(None, 4), (None, 2)])
    assert list(model.inputs) == ["input_0", "input_1"]


@pytest.mark.parametrize(
    ("network", "arguments", "match"),
    [
        (Sub(), {}, "give input_shapes .*the network does not know its own"),
        (Pair(), {"input_shapes": {"z": (1, 4)}}, r"\['x', 'y'\], but .*'z'"),
        (Pair(), {"input_shapes": [(1, 4)] * 3}, "described are 3"),
        (detector(), {"input_shapes": {"h": (1,)}}, r"\['h'\], but the netwo"),
        (detector(), {"input_shapes": [(1,)] * 3}, "has 3 entries, but"),
        (
            detector(),
            {"input_shapes": {"strain": (None, 16, 3)}},
            r"is \(None, 16, 3\), but the network takes \(None, 16, 2\)",
        ),
        (detector(), {"input_shapes": (None, 16, 2)}, "an entry for each"),
        (
            detector(),
            {"input_shapes": {"strain": (None, "16", 2)}},
            r"\(None, '16', 2\) is no shape of 'strain'",
        ),
        (Sub(), {"input_shapes": [(None, 4.5)]}, r"4.5\) is no shape of 'x'"),
        (Sub(), {"input_shapes": [(None, 0)]}, r"0\) is no shape of 'x'"),
        (
            detector(),
            {"sample_inputs": {"strain": randn(2, 8, 2)}},
            r"has shape \(2, 8, 2\), which does not fit \(None, 16, 2\)",
        ),
        (
            detector(),
            {"sample_inputs": {"witness": np.ones((2, 3), complex)}},
            "is complex128, but the network takes float32",
        ),
        (detector(), {"input_names": ["a"]}, "the network takes 2 inputs"),
        (detector(), {"input_names": "ab"}, "names='ab': give a list"),
        (detector(), {"input_names": ["a", "a"]}, "each its own"),
        (detector(), {"output_names": ["a"]}, "but the network gives 2"),
        (
            detector(),
            {"output_names": ["strain", "kind"]},
            "each tensor needs a name of its own",
        ),
        (detector(), {"fp16": True}, r"unknown option \['fp16'\]"),
        (
            Sub(),
            {"sample_inputs": [np.array([["a"]])]},
            r"^Sub does not run on inputs of [^\n\x1b]*$",
        ),
        (
            Sub(),
            {"input_shapes": {"z": (1, 4)}},
            r"\{'z': \(1, 4\)\} in one dict, its 'x': [^\\\x1b]*$",
        ),
        (
            Returns(lambda _: None),
            {"input_shapes": [(1, 4)]},
            "returns no tensor",
        ),
        (
            Returns(lambda _: ()),
            {"input_shapes": [(1, 4)]},
            "returns no tensor",
        ),
        (Returns(lambda *_: 0), {}, "give input_shapes"),
        (tf.Module(), {}, "Module cannot be called: give it a __call__"),
        (Anything(), {}, "nothing says what the network takes"),
    ],
)
@pytest.mark.parametrize("platform", BOTH)
def test_wrong_descriptions_are_refused(
    add, platform, network, arguments, match
) -> None:
    model = add(platform)
    with pytest.raises(InvalidInput, match=match):
        model.export_version(network, **arguments)
    assert model.versions == []
    assert not model.inputs


def test_options_and_names_that_a_platform_does_not_take(add) -> None:
    network = chain(layers.Dense(2))
    with pytest.raises(InvalidInput, match="tf2onnx writes 9 to 18"):
        add(Platform.ONNX).export_version(network, opset_version=99)
    savedmodel = add(Platform.SAVEDMODEL)
    with pytest.raises(InvalidInput, match=r"\['opset_version'\]; this exp"):
        savedmodel.export_version(network, opset_version=13)
    with pytest.raises(InvalidInput, match=r"has no tensors called \['a b'\]"):
        savedmodel.export_version(network, input_names=["a b"])
    add(Platform.ONNX).export_version(network, input_names=["a b"])


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize(
    "spectrum",
    [
        lambda x: tf.abs(tf.signal.stft(x, 16, 8)),
        lambda x: tf.abs(tf.signal.rfft(x, [100])),
        lambda x: keras.ops.rfft(x[:, :50]),
    ],
)
def test_spectra_are_written_without_complex_numbers(
    add, spectrum, opset
) -> None:
    network = Returns(spectrum)
    model = add(Platform.ONNX)
    shapes = [(None, 64)]
    model.export_version(network, input_shapes=shapes, opset_version=opset)


def phases(x):
    return tf.math.angle(tf.signal.rfft(x))


class Undecided(Sub):
    def call(self, x):
        return x * 2 if keras.ops.sum(x) > 0 else x


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (Returns(phases), r"has no RFFT \(at 'rfft'\), Angle.*SAVEDMODEL"),
        (
            Returns(lambda x: tf.abs(tf.signal.fft(tf.cast(x, "complex64")))),
            r"tf2onnx cannot convert Returns \(at .*FFT",
        ),
        (
            Returns(lambda x: tf.cast(x, tf.bfloat16)),
            "computes with bfloat16",
        ),
        (
            Returns(lambda x: tf.numpy_function(np.sin, [x], tf.float32)),
            "calls Python",
        ),
        (
            Undecided(),
            r"cannot make a graph of Undecided: .* \(test_\S+, line \d+\)$",
        ),
    ],
)
def test_networks_that_cannot_be_converted(add, network, match) -> None:
    model = add(Platform.ONNX)
    with pytest.raises(ExportFailed, match=match):
        model.export_version(network, input_shapes=[(None, 8)])
    assert model.versions == []


def test_what_onnx_lacks_may_be_a_savedmodel(add) -> None:
    add(Platform.SAVEDMODEL).export_version(
        Returns(phases), input_shapes=[(None, 8)]
    )
    lookup = keras.Sequential([layers.StringLookup(vocabulary=["a", "b"])])
    model = add(Platform.SAVEDMODEL)
    words = np.array([["a"], ["c"]], object)
    path = model.export_version(
        lookup, sample_inputs=[words], output_names=["index"]
    )
    assert run(path, inputs=words)["index"].tolist() == [[1], [0]]


def test_a_network_that_does_not_hold_its_table_cannot_be_saved(add) -> None:
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant([0], tf.int64), tf.constant([1.0])
        ),
        default_value=0.0,
    )
    network = Returns(lambda x: table.lookup(tf.cast(x, tf.int64)))
    with pytest.raises(ExportFailed, match="TensorFlow cannot save Returns"):
        add(Platform.SAVEDMODEL).export_version(
            network, input_shapes=[(None, 4)]
        )


def test_data_types_that_triton_lacks_are_refused(add) -> None:
    network = Returns(lambda x: tf.cast(x, tf.complex64))
    for platform in BOTH:
        with pytest.raises(DtypeMismatch, match="complex64"):
            add(platform).export_version(network, input_shapes=[(None, 4)])


def test_an_artifact_that_computes_something_else_is_refused(add) -> None:
    noisy = Returns(lambda x: x + tf.random.uniform(tf.shape(x)))
    for platform in BOTH:
        model = add(platform)
        with pytest.raises(VerificationFailed, match="'output_0' at batch"):
            model.export_version(noisy, input_shapes=[(None, 4)])
        assert model.versions == []


def test_the_table_names_keras_where_it_cannot_export_it(add) -> None:
    with pytest.raises(UnsupportedExport, match="keras -> ONNX, SAVEDMODEL"):
        add(Platform.TORCHSCRIPT).export_version(chain(layers.Dense(1)))


def test_torch_finds_no_triton_after_tensorflow() -> None:
    from hermes.quiver._extras import apart_from_triton

    modules: dict[str, object] = {"tensorflow": tf}
    with apart_from_triton(modules):
        assert modules == {"tensorflow": tf, "triton": None}
    assert modules == {"tensorflow": tf}
    for modules in ({}, {"tensorflow": tf, "triton": 1}):
        before = dict(modules)
        with apart_from_triton(modules):
            assert modules == before


def test_a_network_is_built_into_an_engine(tmp_path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    repository = ModelRepository(tmp_path / "models")
    model = repository.add("detector", Platform.TENSORRT)
    model.config.max_batch_size = 4
    model.export_version(detector(), use_fp16=True)
    provenance = json.loads(model.read_version(1, "model.plan.json"))
    assert provenance["precision"] == "fp16"
    assert model.read_version()
    assert {t.dtype for t in model.inputs.values()} == {np.dtype("float32")}
