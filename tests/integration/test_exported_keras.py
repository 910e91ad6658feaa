"""Keras networks on the real server equal themselves."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import Server, serve
from hermes.quiver import ModelRepository, Platform

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras")

pytestmark = pytest.mark.triton

layers = keras.layers


def recurrent() -> keras.Model:
    strain = layers.Input((None, 2), name="strain")
    witness = layers.Input((3,), name="witness")
    state = layers.Bidirectional(layers.GRU(4))(strain)
    both = layers.Concatenate()([state, witness])
    return keras.Model(
        [strain, witness],
        {"score": layers.Dense(1)(both), "parts": layers.Softmax()(both)},
    )


def transformer() -> keras.Model:
    strain = layers.Input((64, 2), name="strain")
    x = layers.Conv1D(8, 5, strides=4, groups=2, activation="gelu")(strain)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    x = layers.GlobalAveragePooling1D()(layers.DepthwiseConv1D(3)(x))
    return keras.Model(strain, layers.Dense(2, name="score")(x))


NETWORKS = {"recurrent": recurrent, "transformer": transformer}
SIZES = {
    "recurrent": {"strain": (3, 40, 2), "witness": (3, 3)},
    "transformer": {"strain": (3, 64, 2)},
}


# Each on ONNX Runtime and on TensorFlow itself.
SERVED = [
    (name, platform)
    for name in NETWORKS
    for platform in (Platform.ONNX, Platform.SAVEDMODEL)
]


@pytest.fixture(scope="module")
def networks() -> dict[str, keras.Model]:
    return {name: make() for name, make in NETWORKS.items()}


@pytest.fixture(scope="module")
def server(networks, tmp_path_factory) -> Iterator[Server]:
    repository = ModelRepository(tmp_path_factory.mktemp("keras") / "models")
    for name, platform in SERVED:
        model = repository.add(f"{name}-{platform.name}", platform)
        model.config.max_batch_size = 4
        model.export_version(networks[name])
    with serve(repository.root, free_ports=True, gpus=[]) as server:
        yield server.wait(120)


@pytest.mark.parametrize(("name", "platform"), SERVED)
def test_served_networks_give_what_they_give_offline(
    networks, server, name, platform
) -> None:
    rng = np.random.default_rng(1)
    arrays = {
        key: rng.standard_normal(size).astype(np.float32)
        for key, size in SIZES[name].items()
    }
    values = [*arrays.values()]
    taken = values if len(values) > 1 else values[0]
    expected = networks[name](taken, training=False)
    model = f"{name}-{platform.name}"
    with InferenceClient(server.endpoint, model) as client:
        given = client.predict(arrays)
    if not isinstance(expected, dict):
        given, expected = {"score": given}, {"score": expected}
    assert given.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_allclose(given[key], array, rtol=1e-4, atol=1e-6)
