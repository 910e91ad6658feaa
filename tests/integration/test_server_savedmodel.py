"""SavedModels on a real server, and what runs them without one.

TensorFlow and the compiler of torch's exporter cannot be in one process: each
brings its own LLVM, and the second one aborts. Here TensorFlow is that of the
runtime, in processes of its own.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import RuntimeUnusable
from hermes.aeriel.serve import Server, serve
from hermes.aeriel.serve._manifest import SOURCES
from hermes.aeriel.serve._runtimes import ManagedRuntime, find_runtime

pytestmark = pytest.mark.triton

PROGRAM = """
import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

backends, folder = map(Path, sys.argv[1:])
sys.path += [str(backends / name) for name in ("python", "tensorflow")]
from hermes_savedmodel import SavedModel
from hermes_states import LoadError, RequestError

class Network(tf.Module):
    def __init__(self):
        rng = np.random.default_rng(0)
        self.kernel = tf.Variable(rng.normal(size=(7, 2, 16)).astype("f4"))
        self.matrix = tf.Variable(rng.normal(size=(16, 3)).astype("f4"))

    @tf.function(input_signature=[
        tf.TensorSpec([None, 128, 2], tf.float32, "strain"),
        tf.TensorSpec([None, 1], tf.bool, "keep"),
        tf.TensorSpec([], tf.float32, "scale"),
    ])
    def score(self, strain, keep, scale):
        seen = tf.reduce_max(tf.nn.conv1d(strain, self.kernel, 1, "SAME"), 1)
        score = tf.where(keep, tf.nn.softmax(seen @ self.matrix), 0.0)
        return {"score": scale * score, "half": tf.cast(seen, tf.float16)}

def one(name, shape, dtype, compute):
    spec = tf.TensorSpec(shape, dtype, name)
    found = tf.function(lambda **given: {"out": compute(given[name])})
    return found.get_concrete_function(**{name: spec})

network = Network()
network.others = {
    "text": one("text", [None], tf.string, lambda text: text + text),
    "odd": one("z", [2], tf.complex64, lambda z: z),
    "open": one("any", None, tf.int64, lambda any: -any),
}
saved = folder / "network" / "1" / "model.savedmodel"
signatures = {"serving_default": network.score, **network.others}
tf.saved_model.save(network, str(saved), signatures)

arrays = {}
for size in (1, 2, 8):
    rng = np.random.default_rng(size)
    strain = rng.normal(size=(size, 128, 2)).astype("f4")
    keep = rng.integers(0, 2, (size, 1)).astype(bool)
    found = network.score(*map(tf.constant, (strain, keep, 2.0)))
    arrays |= {f"{name}{size}": found[name].numpy() for name in found}
    arrays |= {f"strain{size}": strain, f"keep{size}": keep}
np.savez(folder.parent / "arrays.npz", **arrays)

def load(**parameters):
    given = {name: {"string_value": p} for name, p in parameters.items()}
    return SavedModel(saved, {"parameters": given})

def refusal(call):
    try:
        call()
    except (LoadError, RequestError) as error:
        return f"{type(error).__name__}: {error}"

def tensors(infos):
    return {info.name: [info.data_type, info.dims] for info in infos}

runner = load()
text, = load(TF_SIGNATURE_DEF="text", TF_GRAPH_TAG="serve").run(
    ["out"], {"text": np.array([b"a", b"bc"], np.object_)}
)
some = load(TF_SIGNATURE_DEF="open")
negative, = some.run(["out"], {"any": np.ones(1, np.int64)})
wrong = {"strain": strain, "keep": keep[:, :0], "scale": np.ones(1, "f4")}
junk = folder.parent / "junk"
print(json.dumps({
    "inputs": tensors(runner.inputs),
    "outputs": tensors(runner.outputs),
    "text": [item.decode() for item in text],
    "open": [tensors(some.inputs), negative.tolist()],
    "signature": refusal(lambda: load(TF_SIGNATURE_DEF="fit")),
    "odd": refusal(lambda: load(TF_SIGNATURE_DEF="odd")),
    "tag": refusal(lambda: load(TF_GRAPH_TAG="gpu")),
    "threads": refusal(lambda: load(TF_NUM_INTRA_THREADS="many")),
    "file": refusal(lambda: SavedModel(junk, {})),
    "request": refusal(lambda: runner.run(["score"], wrong)),
}))
"""

CONFIG = """
platform: "tensorflow_savedmodel"
input { name: "strain" data_type: TYPE_FP32 dims: [-1, 128, 2] }
input { name: "keep" data_type: TYPE_BOOL dims: [-1, 1] }
input { name: "scale" data_type: TYPE_FP32 dims: [1] }
output { name: "score" data_type: TYPE_FP32 dims: [-1, 3] }
output { name: "half" data_type: TYPE_FP16 dims: [-1, 16] }
instance_group { count: 1 kind: KIND_CPU }
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """The runtime's Python, if it has TensorFlow."""
    try:
        found = find_runtime(os.environ)
    except RuntimeUnusable as error:
        pytest.skip(str(error))
    managed = isinstance(found, ManagedRuntime)
    if not managed or "tensorflow" not in found.check().extras:
        assert "CI" not in os.environ
        pytest.skip("needs a local runtime installed --with tensorflow")
    return found.prefix / "venv" / "bin" / "python3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("savedmodel") / "models"


@pytest.fixture(scope="module")
def told(python: Path, folder: Path) -> dict[str, Any]:
    """What the program found; it has written a model and its answers."""
    done = subprocess.run(
        [python, "-Ic", PROGRAM, SOURCES / "backends", folder],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def server(told: dict[str, Any], folder: Path) -> Iterator[Server]:
    assert told
    (folder / "network" / "config.pbtxt").write_text(CONFIG)
    with serve(folder, free_ports=True) as server:
        yield server.wait(120)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_savedmodel_gives_what_it_gives_offline(
    server: Server, folder: Path, size: int
) -> None:
    arrays = np.load(folder.parent / "arrays.npz")
    inputs = {name: arrays[f"{name}{size}"] for name in ("strain", "keep")}
    inputs["scale"] = np.array([2], np.float32)
    with InferenceClient(server.endpoint, "network") as client:
        answer = client.predict(inputs, timeout=20)
    for name in ("score", "half"):
        expected = arrays[f"{name}{size}"]
        assert answer[name].dtype == expected.dtype
        np.testing.assert_array_equal(answer[name], expected)


def test_a_signature_says_what_it_takes_and_gives(
    told: dict[str, Any],
) -> None:
    assert told["inputs"] == {
        "strain": ["TYPE_FP32", [-1, 128, 2]],
        "keep": ["TYPE_BOOL", [-1, 1]],
        "scale": ["TYPE_FP32", []],
    }
    assert told["outputs"] == {
        "score": ["TYPE_FP32", [-1, 3]],
        "half": ["TYPE_FP16", [-1, 16]],
    }


def test_another_signature_can_be_chosen(told: dict[str, Any]) -> None:
    assert told["text"] == ["aa", "bcbc"]
    assert told["open"] == [{"any": ["TYPE_INT64", []]}, [-1]]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("signature", "LoadError: .* no signature 'fit'; it has .*text"),
        ("odd", "LoadError: tensor 'z' .* is complex64: the local runtime"),
        ("tag", "LoadError: tensorflow cannot load"),
        ("threads", "LoadError: parameter .* must be a count, got 'many'"),
        ("file", "LoadError: .*junk is no folder: of TensorFlow's formats"),
        ("request", "RequestError: tensorflow: "),
    ],
)
def test_what_does_not_fit_is_refused(
    told: dict[str, Any], case: str, expected: str
) -> None:
    assert re.match(expected, told[case])
