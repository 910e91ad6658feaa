"""Real Tritons as the pods of a real control plane, and a client of them.

The nodes are programs of ours, scripts/testing/_kubelet.py: the containers are
local processes with the containers' own arguments. Everything else is real.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator

import fsspec
import numpy as np
import psutil
import pytest

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.endpoint import EndpointLike
from hermes.cloudbreak._access import POD, SERVICE, STATEFUL_SET
from hermes.cloudbreak.clouds.kubeconfig import Cluster
from hermes.cloudbreak.errors import ReplicasFailed
from hermes.cloudbreak.waiting import Clock

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.triton,
    pytest.mark.usefixtures("at_home"),
]

KERNEL_SIZE, STRIDE = 32, 8
CLOCK = Clock(sleep=lambda seconds: time.sleep(seconds / 10))
SELECTOR = {"pool": "tritons"}


@pytest.fixture(scope="module")
def bucket(gcs_emulator) -> tuple[str, dict[str, str]]:
    """Models in a bucket, and how a server reaches it."""
    import torch

    from hermes.quiver import ModelRepository, Platform

    options = {"endpoint_url": gcs_emulator, "token": "anon"}
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
    return root, {"CLOUD_STORAGE_EMULATOR_ENDPOINT": gcs_emulator}


@pytest.fixture(scope="module")
def plane(control_plane) -> Iterator:
    control_plane.add_kubelets("tritons", serve=True, labels="pool=tritons")
    yield control_plane
    control_plane.remove_kubelet("tritons")


@pytest.fixture
def cluster(plane, namespace) -> Iterator[Cluster]:
    with Cluster(
        plane.kubeconfig, namespace=namespace, owner="me", clock=CLOCK
    ) as made:
        yield made


def tritons(argument: str) -> list[psutil.Process]:
    """The servers that have an argument."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "tritonserver"
        and argument in process.info["cmdline"]
    ]


def of_pod(access, name) -> psutil.Process:
    address = access.get(POD, name)["status"]["podIP"]
    (found,) = tritons(f"--http-address={address}")
    return found


@pytest.mark.slow
def test_a_stream_survives_the_death_of_a_server(
    cluster, access, bucket
) -> None:
    repository, env = bucket
    rng = np.random.default_rng(0)
    updates = list(rng.standard_normal((400, 2, STRIDE), np.float32))
    with cluster.deploy_triton(
        repository,
        env=env,
        replicas=2,
        node_selector=SELECTOR,
        service="port-forward",
        timeout=90,
    ) as service:
        assert service.replicas == len(service.endpoints) == 2
        endpoint: EndpointLike = service.endpoints[0]
        with (
            InferenceClient(endpoint, "stream") as client,
            client.sequence() as sequence,
        ):
            expected = [dict(r.outputs) for r in sequence.stream(updates)]
        pods = [f"triton-{index}" for index in (0, 1)]
        killed = threading.Timer(0.0, lambda: of_pod(access, pods[0]).kill())

        def slowly():
            for index, update in enumerate(updates):
                if index == 100:
                    killed.start()
                time.sleep(0.005)
                yield update

        with (
            InferenceClient(list(service.endpoints), "stream") as client,
            client.sequence(replay=True) as sequence,
        ):
            results = list(sequence.stream(slowly()))
        killed.join()
        assert [r.index for r in results] == list(range(len(updates)))
        for result, outputs in zip(results, expected, strict=True):
            for name, array in result.outputs.items():
                assert array.tobytes() == outputs[name].tobytes()
        assert "network" in service.logs()["triton-1"]
    for type_ in (POD, SERVICE, STATEFUL_SET):
        assert not access.list(type_)
    assert not tritons(f"--model-repository={repository}")


@pytest.mark.slow
def test_models_are_loaded_by_all_servers_or_it_is_said_by_which_not(
    cluster, access, bucket
) -> None:
    """And servers come and go, under the addresses that they had."""
    repository, env = bucket
    with cluster.deploy_triton(
        repository,
        "explicit",
        env=env,
        replicas=1,
        node_selector=SELECTOR,
        service="port-forward",
        model_control="explicit",
        models=("network",),
        timeout=90,
    ) as service:
        service.scale(2, timeout=90)
        first, second = service.endpoints
        service.load_model("stream")
        for endpoint in (first, second):
            with InferenceClient(endpoint, "stream") as client:
                assert client.spec.stream is not None
        service.unload_model("stream")
        with pytest.raises(ReplicasFailed, match="2 of 2 servers of explicit"):
            service.load_model("missing")
        of_pod(access, "explicit-1").kill()
        with pytest.raises(ReplicasFailed, match="1 of 2 servers") as caught:
            service.load_model("stream")
        assert list(caught.value.failed) == ["explicit-1"]
        service.scale(1, timeout=90)
        assert service.endpoints == (first,)
        assert len(access.list(POD)) == 1
