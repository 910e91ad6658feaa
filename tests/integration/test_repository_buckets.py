"""Triton loads what was exported to a bucket."""

from __future__ import annotations

import time
import uuid

import fsspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.serve import serve
from hermes.quiver import ModelRepository, Platform

pytestmark = pytest.mark.triton

BUCKET = "hermes-served"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def reduce(operator: str) -> onnx.ModelProto:
    """Reduces over the last axis."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in {"x": ["b", 16], "y": ["b"]}.items()
    ]
    node = helper.make_node(operator, ["x"], ["y"], axes=[-1], keepdims=0)
    return helper.make_model(
        helper.make_graph([node], "reduce", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )


POLL = ["--model-control-mode=poll", "--repository-poll-secs=1"]


@pytest.mark.parametrize("protocol", ["gs", "s3"])
def test_a_bucket_is_served_and_polled(request, protocol) -> None:
    if protocol == "gs":
        endpoint = request.getfixturevalue("gcs_emulator")
        options = {"endpoint_url": endpoint, "token": "anon"}
        env = {"CLOUD_STORAGE_EMULATOR_ENDPOINT": endpoint}
    else:
        endpoint = request.getfixturevalue("s3_emulator")
        options = {"endpoint_url": endpoint, "key": "test", "secret": "test"}
        env = KEYS
    fs = fsspec.filesystem(protocol, **options)
    if not fs.exists(BUCKET):
        fs.mkdir(BUCKET)
    root = f"{protocol}://{BUCKET}/{uuid.uuid4().hex}/models"
    repository = ModelRepository(root, **options)
    model = repository.add("reduce", Platform.ONNX)
    model.config.add_instance_group(count=1, kind="cpu")
    model.export_version(reduce("ReduceMax"))

    x = np.arange(16, dtype=np.float32)[None]
    with (
        serve(
            repository, free_ports=True, wait=True, server_args=POLL, env=env
        ) as server,
        InferenceClient(server.endpoint, "reduce") as client,
    ):
        assert client.predict(x) == 15
        model.export_version(reduce("ReduceMin"))
        deadline = time.monotonic() + 60
        while client.predict(x) != 0:
            assert time.monotonic() < deadline, server.logs(20)
            time.sleep(0.2)
        assert "cannot load" not in server.logs()
