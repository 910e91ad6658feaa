"""What is wanted of Triton, as objects of Kubernetes: no cluster here."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.cloudbreak import manifests
from hermes.cloudbreak._kubernetes import check_manifest
from hermes.cloudbreak._settings import record
from hermes.cloudbreak.deployment import SecretValue, TritonSpec
from hermes.cloudbreak.errors import InvalidSpec
from hermes.cloudbreak.labels import Stamp

STAMP = Stamp("me", "run", 1_900_000_000)


def spec(**settings) -> TritonSpec:
    return TritonSpec(
        **{"name": "triton", "repository": "gs://bucket/models", **settings}
    )


def make(**settings) -> dict[tuple[str, str], dict]:
    wanted = spec(**settings)
    made = [
        manifests.head(wanted, STAMP),
        *manifests.parts(wanted, STAMP, "uid"),
    ]
    return {(each["kind"], each["metadata"]["name"]): each for each in made}


def pod(**settings) -> dict:
    stateful_set = make(**settings)["StatefulSet", "triton"]
    return stateful_set["spec"]["template"]["spec"]


def container(**settings) -> dict:
    return pod(**settings)["containers"][0]


@settings(deadline=None)  # the first one imports a model
@given(
    replicas=st.integers(1, 9),
    gpus=st.integers(0, 8),
    gpu_type=st.sampled_from(["", "nvidia-l4"]),
    tolerations=st.sampled_from([(), ("spot",), ("a=b:NoExecute", "c=d")]),
    env=st.sampled_from([{}, {"A": "1", "B": SecretValue("keys", "b")}]),
    cpu=st.sampled_from(["", "4", "500m"]),
    memory=st.sampled_from(["", "16Gi"]),
    service=st.sampled_from(["cluster", "load-balancer", "port-forward"]),
    service_account=st.sampled_from(["", "reader"]),
)
def test_all_manifests_are_of_todays_kubernetes(
    gpus, gpu_type, **more
) -> None:
    for each in make(
        gpus=gpus, gpu_type=gpu_type if gpus else "", **more
    ).values():
        assert check_manifest(each) == []
        assert Stamp.read(each["metadata"]["labels"]) == STAMP
        json.dumps(each)


def test_the_check_knows_fields_by_their_place() -> None:
    wrong = make()["StatefulSet", "triton"]
    wrong["spec"]["replicas"] = "2"
    wrong["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    problems = check_manifest(wrong)
    assert "spec.replicas: input should be a valid integer" in problems
    (place,) = [each for each in problems if "imagee" in each]
    assert "not permitted" in place


def test_one_object_owns_all_others() -> None:
    head, *others = make(service="load-balancer", replicas=2).values()
    assert "ownerReferences" not in head["metadata"]
    for each in others:
        (owner,) = each["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("Service", "triton")
        assert owner["uid"] == "uid"
        assert owner["blockOwnerDeletion"] is True
    assert others[-1]["kind"] == "StatefulSet"


@pytest.mark.parametrize(
    ("service", "names"),
    [
        ("port-forward", ["triton"]),
        ("cluster", ["triton", "triton-all"]),
        ("load-balancer", ["triton", "triton-all", "triton-0", "triton-1"]),
    ],
)
def test_each_way_of_reaching_servers_has_its_services(service, names) -> None:
    made = make(service=service, replicas=2)
    assert [n for kind, n in made if kind == "Service"] == names


def test_a_balancer_of_one_server_leads_to_it_alone() -> None:
    made = make(
        service="load-balancer",
        source_ranges=("10.0.0.0/8",),
        service_annotations={
            "networking.gke.io/load-balancer-type": "Internal"
        },
    )["Service", "triton-0"]
    assert made["spec"]["type"] == "LoadBalancer"
    assert made["spec"]["loadBalancerSourceRanges"] == ["10.0.0.0/8"]
    assert made["spec"]["selector"] == {
        "statefulset.kubernetes.io/pod-name": "triton-0"
    }
    assert "Internal" in made["metadata"]["annotations"].values()


def test_a_server_gets_what_is_asked_for() -> None:
    made = container(
        gpus=2,
        cpu="4",
        memory="16Gi",
        model_control="explicit",
        models=("a", "b"),
        env={"A": "1", "B": SecretValue("keys", "b")},
        server_args=("--log-verbose=1",),
        drain_seconds=20,
    )
    assert made["resources"] == {
        "requests": {"cpu": "4", "memory": "16Gi"},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": "2"},
    }
    arguments = made["args"]
    assert "command" not in made  # or the image's entrypoint is not run
    assert arguments[:6] == [
        "tritonserver",
        "--model-repository=gs://bucket/models",
        "--model-control-mode=explicit",
        "--load-model=a",
        "--load-model=b",
        "--grpc-http2-min-recv-ping-interval-without-data=1000",
    ]
    assert arguments[-3:] == [
        "--strict-readiness=false",
        "--exit-timeout-secs=20",
        "--log-verbose=1",
    ]
    assert made["env"][0] == {"name": "A", "value": "1"}
    reference = made["env"][1]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "keys", "key": "b"}


@pytest.mark.parametrize(
    "given", ["--strict-readiness=true", "--exit-timeout-secs=7"]
)
def test_what_is_given_for_a_server_counts(given) -> None:
    arguments = container(server_args=(given,))["args"]
    name = given.partition("=")[0]
    assert [each for each in arguments if each.startswith(name)] == [given]


def test_a_server_may_take_its_time_to_start_and_to_end() -> None:
    made = container(startup_seconds=61)
    assert made["startupProbe"]["failureThreshold"] == 13  # of 5 s each
    assert made["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert made["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    assert pod(drain_seconds=20)["terminationGracePeriodSeconds"] > 25
    shared = pod(shm_size="2Gi")["volumes"][0]["emptyDir"]
    assert shared == {"medium": "Memory", "sizeLimit": "2Gi"}


def test_a_server_goes_where_its_gpus_are() -> None:
    made = pod(
        gpu_type="nvidia-l4", node_selector={"pool": "a"}, tolerations=("x=y",)
    )
    assert made["nodeSelector"] == {
        "pool": "a",
        "cloud.google.com/gke-accelerator": "nvidia-l4",
    }
    assert made["tolerations"] == [
        {"key": "x", "operator": "Equal", "value": "y"},
        {
            "key": "nvidia.com/gpu",
            "operator": "Exists",
            "effect": "NoSchedule",
        },
    ]
    assert "tolerations" not in pod(gpus=0)


def test_no_secret_is_written_down_where_others_read() -> None:
    env = {"KEY": SecretValue("keys", "b"), "PLAIN": "hunter2"}
    head = make(env=env)["Service", "triton"]
    settings = head["metadata"]["annotations"][manifests.SETTINGS]
    assert "keys" in settings  # its name only
    assert "hunter2" not in settings + repr(spec(env=env))
    other = record(spec(env={**env, "PLAIN": "hunter3"}), manifests.LIVE)
    assert other != settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "Triton"}, "name='Triton': give lower-case"),
        ({"repository": "models"}, "cannot see the disks of this machine"),
        ({"image": "a b"}, "image='a b' of triton: give a container image"),
        ({"replicas": 0}, "replicas=0 of triton: give a whole number, 1"),
        ({"gpus": 1.5}, "gpus=1.5 of triton"),
        ({"memory": "16 GB"}, "memory='16 GB' of triton: give a quantity"),
        ({"service": "node-port"}, "service='node-port' of triton: give one"),
        ({"model_control": "all"}, "model_control='all' of triton: give one"),
        ({"models": ("a",)}, 'without model_control="explicit"'),
        (
            {"source_ranges": ("10.0.0.0/8",)},
            'are for service="load-balancer"',
        ),
        ({"gpus": 0, "gpu_type": "l4"}, "give both or none"),
        ({"tolerations": ("a b",)}, "tolerations: 'a b' of triton"),
        ({"env": {"a-b": "c"}}, "env: 'a-b' of triton is no name"),
        ({"server_args": ("--http-port=1",)}, "give service=..."),
        ({"server_args": ("-v",)}, "it has to begin --"),
    ],
)
def test_what_makes_no_deployment_is_refused_by_name(
    settings, message
) -> None:
    with pytest.raises(InvalidSpec, match=message.replace("(", r"\(")):
        spec(**settings)
