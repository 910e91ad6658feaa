"""A program for any cluster: deploy, stream, lose a server, lose nothing."""

from __future__ import annotations

import threading
import time
import uuid

import fsspec
import numpy as np
import psutil
import torch

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.endpoint import EndpointLike
from hermes.cloudbreak._access import POD, SERVICE, STATEFUL_SET
from hermes.quiver import ModelRepository, Platform

KERNEL_SIZE, STRIDE = 32, 8


def write_models(emulator: str) -> str:
    """Write a network and a stream to a bucket; give its address."""
    options = {"endpoint_url": emulator, "token": "anon"}
    fs = fsspec.filesystem("gs", **options)
    if not fs.exists("hermes-deployed"):
        fs.mkdir("hermes-deployed")
    torch.manual_seed(0)
    root = f"gs://hermes-deployed/{uuid.uuid4().hex}/models"
    models = ModelRepository(root, **options)
    network = models.add("network", Platform.ONNX)
    network.export_version(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)),
        input_shapes={"input": (None, 2, KERNEL_SIZE)},
    )
    ensemble = models.add("stream", platform=Platform.ENSEMBLE)
    ensemble.add_streaming_inputs(network.inputs["input"], stream_size=STRIDE)
    ensemble.add_output(network.outputs["output_0"])
    ensemble.export_version(None)
    return root


def tritons(argument: str) -> list[psutil.Process]:
    """The servers that have an argument."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "tritonserver"
        and argument in process.info["cmdline"]
    ]


def of_pod(access, name: str) -> psutil.Process:
    """The server of a pod."""
    address = access.get(POD, name)["status"]["podIP"]
    (found,) = tritons(f"--http-address={address}")
    return found


def deploy_and_stream(cluster, access, repository: str, **settings) -> None:
    """Deploy, and stream through two servers, one of which is killed."""
    rng = np.random.default_rng(0)
    updates = list(rng.standard_normal((400, 2, STRIDE), np.float32))
    with cluster.deploy_triton(
        repository, replicas=2, service="port-forward", timeout=90, **settings
    ) as service:
        assert service.replicas == len(service.endpoints) == 2
        endpoint: EndpointLike = service.endpoints[0]
        with (
            InferenceClient(endpoint, "stream") as client,
            client.sequence() as sequence,
        ):
            expected = [dict(r.outputs) for r in sequence.stream(updates)]
        kill = threading.Thread(
            target=lambda: of_pod(access, "triton-0").kill()
        )

        def slowly():
            for index, update in enumerate(updates):
                if index == 100:
                    kill.start()
                time.sleep(0.005)
                yield update

        with (
            InferenceClient(list(service.endpoints), "stream") as client,
            client.sequence(replay=True) as sequence,
        ):
            results = list(sequence.stream(slowly()))
        kill.join()
        assert sequence.num_recoveries == 1
        assert [r.index for r in results] == list(range(len(updates)))
        for result, outputs in zip(results, expected, strict=True):
            for name, array in result.outputs.items():
                assert array.tobytes() == outputs[name].tobytes()
        assert "network" in service.logs()["triton-1"]
    for kind in (POD, SERVICE, STATEFUL_SET):
        assert not [
            each
            for each in access.list(kind)
            if each["metadata"]["name"] != "kubernetes"  # its own
        ]
    assert not tritons(f"--model-repository={repository}")
