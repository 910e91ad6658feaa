"""Deployments on a real Kubernetes control plane, whatever happens to it."""

from __future__ import annotations

import _thread
import contextlib
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hermes.cloudbreak import _commands, manifests
from hermes.cloudbreak._access import (
    POD,
    SERVICE,
    STATEFUL_SET,
    Access,
    Type,
)
from hermes.cloudbreak._deployments import Deployments
from hermes.cloudbreak.clouds import google
from hermes.cloudbreak.clouds.google._manager import RunningCluster
from hermes.cloudbreak.clouds.kubeconfig import Cluster
from hermes.cloudbreak.deployment import SecretValue, TritonSpec
from hermes.cloudbreak.errors import (
    AlreadyThere,
    CloudbreakError,
    CloudUnavailable,
    InvalidSpec,
    NotThere,
    Refused,
    ResourceFailed,
    StillThere,
    WaitTimeout,
)
from hermes.cloudbreak.labels import Stamp
from hermes.cloudbreak.reaping import reap
from hermes.cloudbreak.specs import State
from hermes.cloudbreak.testing import CloudSuite
from hermes.cloudbreak.triton import Deployer
from hermes.cloudbreak.waiting import Clock

pytestmark = [pytest.mark.kubernetes, pytest.mark.usefixtures("at_home")]

BUDGET = Type("policy/v1beta1", "PodDisruptionBudget")
KINDS = (POD, SERVICE, STATEFUL_SET, BUDGET)
BUCKET = "gs://bucket/models"
# The real one, but for looking often.
CLOCK = Clock(sleep=lambda seconds: time.sleep(seconds / 50))


class Impatience:
    """A clock for which time is up as soon as something has been said."""

    def __init__(self, reason: str = "") -> None:
        self._reason = reason
        self._ahead = 0.0
        self.clock = Clock(
            now=lambda: time.monotonic() + self._ahead, sleep=CLOCK.sleep
        )

    def report(self, waited) -> None:
        if any(re.search(self._reason, each) for each in waited.values()):
            self.give_up()

    def give_up(self) -> None:
        self._ahead += 60


def is_ready(endpoint) -> None:
    """These pods infer nothing."""


@pytest.fixture
def cloud(access) -> Deployments:
    return Deployments(access)


@pytest.fixture
def cluster(control_plane, namespace) -> Iterator[Cluster]:
    with Cluster(
        control_plane.kubeconfig, namespace=namespace, owner="me", clock=CLOCK
    ) as made:
        yield made


def left(access) -> list[str]:
    return [
        f"{type_.kind} {each['metadata']['name']}"
        for type_ in KINDS
        for each in access.list(type_)
    ]


class TestDeployments(CloudSuite):
    @pytest.fixture
    def clock(self) -> Clock:
        return CLOCK

    @pytest.fixture
    def specs(self) -> list[TritonSpec]:
        return [TritonSpec(f"t{uuid.uuid4().hex[:6]}", BUCKET, replicas=2)]


# Forks a process for each line, which deploys, so that none has to import
# everything anew.
PROGRAM = """
import os, sys
from hermes.cloudbreak.clouds.kubeconfig import Cluster
from hermes.cloudbreak.waiting import Clock
import time
clock = Clock(sleep=lambda seconds: time.sleep(seconds / 50))
for line in sys.stdin:
    kubeconfig, namespace, name = line.split()
    pid = os.fork()
    if not pid:
        sys.stdin.readline()
        Cluster(
            kubeconfig, namespace=namespace, owner="me", clock=clock
        ).deploy_triton(
            "gs://bucket/models", name, gpus=0, ready=lambda _: None
        )
        os._exit(0)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


def test_a_program_that_is_killed_at_any_call_leaves_what_can_be_reaped(
    access, namespace, proxy, tell
) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(name: str) -> None:
        program.stdin.write(f"{proxy.kubeconfig} {namespace} {name}\n")
        program.stdin.flush()
        proxy.client = int(program.stdout.readline())
        program.stdin.write("go\n")
        program.stdin.flush()
        assert program.stdout.readline() == "ended\n"

    run("whole")
    num_calls = len(proxy.calls)
    assert num_calls > 8
    for fault in ("kill", "kill-after"):
        for number in range(1, num_calls + 1):
            proxy.calls.clear()
            proxy.faults = {number: fault}
            run(f"{fault}-{number}")
    program.stdin.close()
    program.wait(10)
    program.stdout.close()
    assert len(left(access)) > num_calls
    doomed = reap(Deployments(access), "me", older_than=-60, clock=CLOCK)
    tell(calls=num_calls, reaped=len(doomed))
    assert left(access) == []


@pytest.mark.parametrize("fault", [401, 409, 429, 503, "lose"])
def test_bursts_of_errors_are_lived_through(
    access, namespace, proxy, fault
) -> None:
    size = 1 if fault == 401 else 3  # a second one in a row is the answer
    proxy.faults = {
        number + further: fault
        for number in (2, 6, 12, 20, 30, 45, 60)
        for further in range(size)
    }
    with (
        Cluster(
            proxy.kubeconfig, namespace=namespace, owner="me", clock=CLOCK
        ) as cluster,
        cluster.deploy_triton(BUCKET, gpus=0, replicas=2, ready=is_ready),
    ):
        assert len(access.list(POD)) == 2
    assert len(proxy.calls) > 8
    assert left(access) == []


def test_who_is_not_let_in_any_more_leaves_what_can_be_reaped(
    access, namespace, proxy
) -> None:
    cluster = Cluster(
        proxy.kubeconfig, namespace=namespace, owner="me", clock=CLOCK
    )
    proxy.faults = dict.fromkeys(range(7, 9), 401)
    with pytest.raises(Refused, match="401 a fault"):
        cluster.deploy_triton(BUCKET, gpus=0, ready=is_ready)
    cluster.close()
    assert left(access) == []


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("broken/missing", "cannot pull broken/missing: .*manifest unknown"),
        ("broken/crash", "(?s)exit code 1, .* 3 times; .*load 'network'"),
        ("broken/memory", r"out of memory .* limit is 1Gi.*memory="),
        ("broken/secret", 'cannot start: secret "no-such-secret" not found'),
    ],
)
def test_what_is_broken_for_good_is_said_early(
    cluster, access, image, reason
) -> None:
    with pytest.raises(ResourceFailed, match=reason):
        cluster.deploy_triton(
            BUCKET,
            image=image,
            memory="1Gi",
            env={"KEY": SecretValue("no-such-secret", "key")},
            timeout=60,
        )
    assert left(access) == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"gpus": 4},
            "it asks for 4 nvidia.com/gpu, .* have in all: gpu-0 2, gpu-1 2",
        ),
        (
            {"gpu_type": "nvidia-l4"},
            "has no node: .*didn't match Pod's node affin",
        ),
        ({"service": "load-balancer"}, "triton-0 has no address yet"),
    ],
)
def test_what_may_recover_is_said_when_time_is_up(
    control_plane, namespace, access, settings, reason
) -> None:
    impatience = Impatience(reason)
    with Cluster(
        control_plane.kubeconfig,
        namespace=namespace,
        owner="me",
        clock=impatience.clock,
        report=impatience.report,
    ) as cluster:
        with pytest.raises(WaitTimeout, match=reason):
            cluster.deploy_triton(BUCKET, **settings, timeout=60)
        assert left(access) == []


def test_a_refused_part_takes_the_rest_with_it(cluster, access) -> None:
    with pytest.raises(Refused, match=r"422 .*LoadBalancerSourceRanges"):
        cluster.deploy_triton(
            BUCKET, service="load-balancer", source_ranges=("nowhere",)
        )
    assert left(access) == []
    with pytest.raises(ResourceFailed, match=r"pods are refused: .*-bad-"):
        cluster.deploy_triton(BUCKET, tolerations=("-bad-",), timeout=20)
    assert left(access) == []


def test_a_name_that_is_taken_is_not_touched(cluster, access) -> None:
    other = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "triton"},
        "spec": {"ports": [{"port": 80}]},
    }
    access.create(other)
    for exists_ok, error in ((False, AlreadyThere), (True, ResourceFailed)):
        with pytest.raises(error, match="triton"):
            cluster.deploy_triton(BUCKET, exists_ok=exists_ok)
    assert left(access) == ["Service triton"]
    other["metadata"]["name"] = "new-all"
    access.create(other)
    with pytest.raises(Refused, match="give the deployment another name"):
        cluster.deploy_triton(BUCKET, "new")
    assert left(access) == ["Service new-all", "Service triton"]


@pytest.fixture
def entitled(control_plane, namespace, access, tmp_path) -> Path:
    """A file for somebody who has the rights of docs/clouds.md, only."""
    text = (Path(__file__).parents[3] / "docs" / "clouds.md").read_text()
    role = yaml.safe_load(re.search("```yaml\n(.*?)```", text, re.DOTALL)[1])
    group = "rbac.authorization.k8s.io"
    access.create(role)
    access.create(
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "hermes"},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "hermes"},
            "subjects": [{"kind": "ServiceAccount", "name": "default"}],
        }
    )
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    asked = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": ["https://kubernetes.default.svc"]},
    }
    answer = access._connection.request("POST", path, {}, asked).json()
    content = yaml.safe_load(control_plane.kubeconfig.read_text())
    content["users"][0]["user"] = {"token": answer["status"]["token"]}
    made = tmp_path / "entitled"
    made.write_text(yaml.safe_dump(content))
    return made


@pytest.mark.parametrize("reach", ["cluster", "port-forward", "load-balancer"])
def test_the_documented_rights_are_enough(
    entitled, namespace, access, reach
) -> None:
    def report(_waited) -> None:
        """Do what a cloud does when it is asked for an address."""
        for each in access.list(SERVICE):
            ingress = {"loadBalancer": {"ingress": [{"ip": "10.1.0.1"}]}}
            if each["spec"].get("type") == "LoadBalancer":
                name = each["metadata"]["name"]
                change = {"status": ingress}
                with contextlib.suppress(CloudbreakError):
                    access.patch(SERVICE, name, change, part="status")

    with Cluster(
        entitled, namespace=namespace, owner="me", clock=CLOCK, report=report
    ) as cluster:
        with pytest.raises(Refused, match=r"403 .*secrets"):
            cluster._access.list(Type("v1", "Secret"))
        # What is there in part is completed.
        spec = TritonSpec("triton", BUCKET, gpus=0, service=reach)
        begun = replace(cluster._reconciler._stamp, deadline=2**31)
        uid = access.create(manifests.head(spec, begun))["metadata"]["uid"]
        for each in manifests.parts(spec, begun, uid, BUDGET.api_version)[:-1]:
            access.create(each)
        with cluster.deploy_triton(
            BUCKET, gpus=0, service=reach, ready=is_ready, timeout=60
        ) as service:
            # It is let in as far as to the pod, where nobody listens.
            with pytest.raises(CloudUnavailable, match="forwarding port 8000"):
                cluster._access.connect("triton-0", 8000)
            if reach != "load-balancer":  # who would give it an address?
                service.scale(2)
                service.scale(1)
            stamp = cluster._reconciler._stamp
            cluster._reconciler._cloud.update(replace(spec, cpu="1"), stamp)
        with pytest.raises(ResourceFailed, match="load 'network'"):
            cluster.deploy_triton(
                BUCKET, "crash", image="broken/crash", timeout=60
            )
    assert left(access) == []


def test_what_was_begun_is_completed_with_the_new_deadline(
    access, cloud
) -> None:
    """A run was killed after its first call, and is started again."""
    spec = TritonSpec("triton", BUCKET, gpus=0)
    begun, again = Stamp("me", "night", 2**31), Stamp("me", "night", 2**31 + 9)
    access.create(manifests.head(spec, begun))
    cloud.create(spec, again)
    assert Stamp.read(cloud.find(spec.key).labels) == again
    with pytest.raises(AlreadyThere, match="is there already"):
        cloud.create(spec, again)  # it is whole
    other = TritonSpec("other", BUCKET, gpus=0)
    access.create(manifests.head(other, begun))
    with pytest.raises(AlreadyThere, match="is there already"):
        cloud.create(other, Stamp("me", "day", 2**31))
    with pytest.raises(NotThere, match="no deployment other of run day"):
        cloud.update(other, Stamp("me", "day", 2**31))
    for each in (spec, other):
        access.delete(SERVICE, each.name)


def test_a_part_of_one_deployment_is_not_another_one(cluster, access) -> None:
    cluster.deploy_triton(BUCKET, ready=is_ready)
    found = left(access)
    with pytest.raises(AlreadyThere, match="it is not of this run"):
        cluster.deploy_triton(BUCKET, "triton-all", timeout=30)
    assert left(access) == found


def test_what_is_there_already_is_used_and_left(
    cluster, access, control_plane, namespace
) -> None:
    cluster.deploy_triton(BUCKET, ready=is_ready)
    found = left(access)
    with pytest.raises(AlreadyThere, match="this program has deployed"):
        cluster.deploy_triton(BUCKET, replicas=2)
    with Cluster(
        control_plane.kubeconfig, namespace=namespace, owner="you", clock=CLOCK
    ) as other:
        with pytest.raises(AlreadyThere, match="it is not of this run"):
            other.deploy_triton(BUCKET)
        with other.deploy_triton(BUCKET, exists_ok=True, ready=is_ready):
            pass
        with pytest.raises(AlreadyThere, match="replicas 1 -> 2"):
            other.deploy_triton(BUCKET, replicas=2, exists_ok=True)
    assert left(access) == found


def test_what_has_expired_is_reaped(control_plane, namespace, access) -> None:
    with contextlib.closing(
        Cluster(
            control_plane.kubeconfig,
            namespace=namespace,
            owner="me",
            lifetime=-1,
            clock=CLOCK,
        )
    ) as cluster:
        cluster.deploy_triton(BUCKET, ready=is_ready)
        assert cluster.reap("you") == []
        (key,) = cluster.reap(dry_run=True)
        assert left(access)
        assert cluster.reap() == [key]
        assert left(access) == []


def test_servers_are_reached_by_the_addresses_of_their_balancers(
    cluster, access
) -> None:
    addresses = {"triton-all": "10.1.0.1", "triton-0": "10.1.0.2"}

    def report(_waited) -> None:
        """Do what a cloud does when it is asked for an address."""
        for name, ip in addresses.items():
            ingress = {"loadBalancer": {"ingress": [{"ip": ip}]}}
            with contextlib.suppress(CloudbreakError):
                access.patch(SERVICE, name, {"status": ingress}, part="status")

    stranger = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "triton-2"},
        "spec": {"ports": [{"port": 80}]},
    }
    access.create(stranger)
    cluster._reconciler._report = report
    with cluster.deploy_triton(
        BUCKET,
        service="load-balancer",
        source_ranges=("10.0.0.0/8",),
        ready=is_ready,
        timeout=30,
    ) as service:
        assert service.endpoint.grpc == "10.1.0.1:8001"
        assert [e.http for e in service.endpoints] == ["10.1.0.2:8000"]
        spec = access.get(SERVICE, "triton-0")["spec"]
        assert spec["loadBalancerSourceRanges"] == ["10.0.0.0/8"]
        with pytest.raises(Refused, match="a Service triton-2 already"):
            service.scale(3, timeout=30)
        assert (
            access.get(SERVICE, "triton-2")["spec"]["ports"][0]["port"] == 80
        )
        assert service.replicas == 1
        assert all(
            "deletionTimestamp" in each["metadata"]
            for each in access.list(SERVICE)
            if each["metadata"]["name"] == "triton-1"
        )
    assert left(access) == ["Service triton-2"]


def test_servers_have_names_within_the_cluster(cluster, namespace) -> None:
    with cluster.deploy_triton(BUCKET, replicas=2, ready=is_ready) as service:
        assert service.endpoint.http == f"triton-all.{namespace}.svc:8000"
        assert [e.grpc for e in service.endpoints] == [
            f"triton-{index}.triton.{namespace}.svc:8001" for index in (0, 1)
        ]


def test_servers_that_do_not_infer_are_not_ready(
    control_plane, namespace, access
) -> None:
    impatience, asked = Impatience(), set()

    def never(endpoint) -> None:
        asked.add(endpoint.http)
        if len(asked) == 2:
            impatience.give_up()
        raise ConnectionError("the answer is wrong")

    with Cluster(
        control_plane.kubeconfig,
        namespace=namespace,
        owner="me",
        clock=impatience.clock,
    ) as cluster:
        with pytest.raises(WaitTimeout, match=r"triton-1: .*answer is wrong"):
            cluster.deploy_triton(BUCKET, replicas=2, ready=never, timeout=60)
        assert left(access) == []


def test_a_test_that_fails_is_the_end_of_it(cluster, access) -> None:
    def refuse(endpoint) -> None:
        raise ArithmeticError(f"{endpoint.http}: scores are not finite")

    with pytest.raises(ResourceFailed, match="scores are not finite"):
        cluster.deploy_triton(BUCKET, ready=refuse)
    assert left(access) == []


def test_settings_that_do_not_exist_are_refused(cluster) -> None:
    with pytest.raises(
        InvalidSpec, match="unexpected keyword argument 'replica'"
    ):
        cluster.deploy_triton(BUCKET, replica=2)


def test_scaling_that_fails_leaves_what_there_was(cluster, access) -> None:
    with cluster.deploy_triton(BUCKET, gpus=2, ready=is_ready) as service:
        with pytest.raises(WaitTimeout, match=r"triton-2 has no node"):
            service.scale(3, timeout=4)
        assert service.replicas == len(access.list(POD)) == 1
        with pytest.raises(InvalidSpec, match="replicas=0 of triton: give 1"):
            service.scale(0)
        access.delete(SERVICE, "triton")
        with pytest.raises(ResourceFailed, match="somebody has deleted"):
            service.scale(2, timeout=5)


def test_ctrl_c_leaves_nothing(control_plane, namespace, access) -> None:
    """While pods are waited for, and while servers are tested."""
    interrupts = [KeyboardInterrupt()]

    def interrupt(*_args) -> None:
        if interrupts:
            raise interrupts.pop()

    with Cluster(
        control_plane.kubeconfig,
        namespace=namespace,
        owner="me",
        clock=CLOCK,
        report=interrupt,
    ) as cluster:
        with pytest.raises(KeyboardInterrupt):
            cluster.deploy_triton(BUCKET, gpus=3)
        assert left(access) == []
        interrupts.append(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            cluster.deploy_triton(BUCKET, gpus=0, ready=interrupt)
        assert left(access) == []


def test_ctrl_c_does_not_wait_for_servers_that_are_tested(
    cluster, access
) -> None:
    interrupts = [_thread.interrupt_main]

    def never(_endpoint) -> None:
        if interrupts:
            interrupts.pop()()
        raise ConnectionError("not yet")

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        cluster.deploy_triton(BUCKET, gpus=0, ready=never, timeout=40)
    assert time.monotonic() - begun < 30
    assert left(access) == []


@pytest.fixture
def start_again(control_plane, namespace) -> Iterator[Callable[..., Cluster]]:
    """Start programs of one run; those that nobody ends are as if killed."""
    started: list[Cluster] = []

    def start(kubeconfig=control_plane.kubeconfig, report=None) -> Cluster:
        started.append(
            Cluster(
                kubeconfig,
                namespace=namespace,
                owner="me",
                run="night",
                clock=CLOCK,
                report=report,
            )
        )
        return started[-1]

    yield start
    for cluster in started:
        for service in cluster._services:
            service.release()
        cluster._access.close()


def test_other_settings_of_the_same_run_are_what_is_there_then(
    start_again, access
) -> None:
    first = start_again()
    first.deploy_triton(
        BUCKET,
        env={"OLD": "1", "KEPT": "1"},
        tolerations=("spot",),
        replicas=2,
        ready=is_ready,
    )
    before = {each["metadata"]["uid"] for each in access.list(POD)}
    with start_again() as second:
        service = second.deploy_triton(
            BUCKET,
            env={"KEPT": "2"},
            gpus=0,
            replicas=3,
            ready=is_ready,
            timeout=60,
        )
        assert service.replicas == 3
        pods = access.list(POD)
        assert not before & {each["metadata"]["uid"] for each in pods}
        assert len(pods) == 3
        for each in pods:
            (container,) = each["spec"]["containers"]
            assert container["env"] == [{"name": "KEPT", "value": "2"}]
            taints = [t["key"] for t in each["spec"]["tolerations"]]
            assert "spot" not in taints
            assert "nvidia.com/gpu" not in taints
        before = {each["metadata"]["uid"] for each in pods}
        service.scale(2, drain=0)
        # And nothing that is known of it is stale.
        third = start_again()
        third.deploy_triton(
            BUCKET, env={"KEPT": "2"}, gpus=0, replicas=2, ready=is_ready
        )
        assert {each["metadata"]["uid"] for each in access.list(POD)} < before
        with pytest.raises(AlreadyThere, match="service cluster -> port-for"):
            start_again().deploy_triton(
                BUCKET, service="port-forward", replicas=1
            )
        assert len(access.list(POD)) == 2


def test_a_change_that_breaks_it_can_be_changed_again(
    start_again, access
) -> None:
    start_again().deploy_triton(BUCKET, gpus=0, replicas=2, ready=is_ready)
    with pytest.raises(ResourceFailed, match=r"manifest unknown.*was ready"):
        start_again().deploy_triton(
            BUCKET, gpus=0, replicas=2, image="broken/missing", timeout=60
        )
    pods = {each["metadata"]["name"]: each for each in access.list(POD)}
    assert pods["triton-0"]["status"]["containerStatuses"][0]["ready"]
    with start_again() as last:
        last.deploy_triton(
            BUCKET, gpus=0, replicas=2, ready=is_ready, timeout=60
        )
    assert left(access) == []


@pytest.fixture
def proxied(proxy, namespace) -> Iterator[Cluster]:
    with Cluster(
        proxy.kubeconfig, namespace=namespace, owner="me", clock=CLOCK
    ) as made:
        yield made


def scale_at_call(service, proxy, fault: int, call: str, replicas: int) -> int:
    """Scale, with a fault at the first call of a kind; count these."""
    forward, seen = proxy.forward, []

    def forward_or_not(request, body):
        if re.search(call, f"{request.command} {request.path}"):
            seen.append(request.path)
            if len(seen) == 1:
                return fault, '{"message": "a fault"}'
        return forward(request, body)

    proxy.forward = forward_or_not
    try:
        service.scale(replicas, timeout=20, drain=0)
    finally:
        proxy.forward = forward
    return len(seen)


def test_a_file_is_up_when_its_servers_infer_and_not_before(
    control_plane, namespace, access, tmp_path, capsys
) -> None:
    file = tmp_path / "cloud.toml"
    file.write_text(
        'run = "night"\ntimeout = "4s"\n[kubernetes]\n'
        f'kubeconfig = "{control_plane.kubeconfig}"\n'
        f'namespace = "{namespace}"\n'
        '[[triton]]\nname = "triton"\nrepository = "gs://bucket/models"\n'
    )
    assert _commands.run(["up", str(file), "--yes"], clock=CLOCK) == 1
    said = capsys.readouterr().err
    assert "deployment triton does not infer" in said  # nobody listens there
    assert left(access) == []


def test_logs_are_those_of_all_pods(cloud) -> None:
    spec = TritonSpec("triton", BUCKET, image="broken/crash", replicas=2)
    with pytest.raises(NotThere, match="deployment triton has no pods"):
        cloud.logs(spec.key)
    cloud.create(spec, Stamp("me", "night", 2**31))
    deadline = time.monotonic() + 30
    while cloud.find(spec.key).state is not State.BROKEN:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    logs = cloud.logs(spec.key)
    assert sorted(logs) == ["triton-0", "triton-1"]
    assert "failed to load 'network'" in logs["triton-1"]
    cloud.delete(spec.key)


def give_addresses(access) -> None:
    """Do what a cloud does when it is asked for addresses."""
    for each in access.list(SERVICE):
        if each["spec"].get("type") == "LoadBalancer":
            name = each["metadata"]["name"]
            change = {"loadBalancer": {"ingress": [{"ip": "10.1.0.1"}]}}
            with contextlib.suppress(CloudbreakError):
                access.patch(SERVICE, name, {"status": change}, part="status")


def test_what_is_not_deleted_in_time_can_be_deleted_again(
    proxy, namespace, access
) -> None:
    deployer = Deployer(
        Access.from_kubeconfig(proxy.kubeconfig, namespace=namespace),
        Stamp("me", "night", 2**31),
        clock=CLOCK,
        deletion_timeout=0.5,
    )
    deployer.deploy_triton(BUCKET, gpus=0, ready=is_ready)
    cluster = RunningCluster(None, google.Cluster("main"))
    cluster._deployer = deployer
    forward = proxy.forward

    def stay(request, body):
        if request.command == "DELETE":
            return 503, '{"message": "a fault"}'
        return forward(request, body)

    proxy.forward = stay
    with pytest.raises(StillThere, match=r"deployment triton .*503 a fault"):
        cluster.undeploy()
    proxy.forward = forward
    deployer._reconciler._deletion_timeout = 60
    cluster.undeploy()
    assert left(access) == []


def balancers(access) -> set[str]:
    return {
        each["metadata"]["name"]
        for each in access.list(SERVICE)
        if "deletionTimestamp" not in each["metadata"]
    } - {"triton"}


def test_ctrl_c_leaves_no_balancer_of_a_server_that_is_gone(
    proxied, access, proxy
) -> None:
    proxied._reconciler._report = lambda _: give_addresses(access)
    forward, calls = proxy.forward, []

    def interrupt_after_resizing(request, body):
        answer = forward(request, body)
        if request.path.endswith("/scale") and not calls:
            calls.append(request.path)
            _thread.interrupt_main()
        return answer

    with proxied.deploy_triton(
        BUCKET, gpus=0, replicas=2, service="load-balancer", ready=is_ready
    ) as service:
        assert balancers(access) == {"triton-all", "triton-0", "triton-1"}
        proxy.forward = interrupt_after_resizing
        with pytest.raises(KeyboardInterrupt):
            service.scale(1, timeout=20, drain=0)
        assert calls
        assert balancers(access) == {"triton-all", "triton-0"}
        proxy.forward = forward


def test_a_change_that_was_cut_off_anywhere_is_done_by_the_next_program(
    proxy, start_again, access
) -> None:
    def run(replicas: int, memory: str) -> None:
        start_again(
            proxy.kubeconfig, lambda _: give_addresses(access)
        ).deploy_triton(
            BUCKET,
            gpus=0,
            replicas=replicas,
            memory=memory,
            service="load-balancer",
            ready=is_ready,
            timeout=60,
        )

    run(2, "1Gi")
    for number in range(1, 100):
        proxy.calls.clear()
        proxy.faults = {number: 403}
        try:
            run(1, "2Gi")
        except Refused:
            continue
        break
    assert number > 20  # each part is looked at and applied
    assert balancers(access) == {"triton-all", "triton-0"}
    (pod,) = access.list(POD)
    limits = pod["spec"]["containers"][0]["resources"]["limits"]
    assert limits["memory"] == "2Gi"
    access.delete(SERVICE, "triton")


@pytest.mark.parametrize("call", ["PATCH .*/pods/", "PATCH .*/scale"])
def test_scaling_down_that_fails_can_be_done_again(
    proxied, access, proxy, call
) -> None:
    with proxied.deploy_triton(
        BUCKET, gpus=0, replicas=2, ready=is_ready
    ) as service:
        before = service.endpoints
        with pytest.raises(Refused, match="403 a fault"):
            scale_at_call(service, proxy, 403, call, 1)
        assert service.endpoints == before
        assert [
            each["metadata"]["labels"]["hermes-serving"]
            for each in access.list(POD)
        ] == ["yes", "yes"]
        service.scale(1, timeout=20, drain=0)
        assert service.endpoints == before[:1]
        assert access.get(STATEFUL_SET, "triton")["spec"]["replicas"] == 1


def test_scaling_asks_again_where_there_is_no_answer(proxied, proxy) -> None:
    calls = ("GET .*/statefulsets/", "PATCH .*/scale", "GET .*/services/")
    with proxied.deploy_triton(BUCKET, gpus=0, ready=is_ready) as service:
        for call, replicas in zip(calls, (2, 1, 2), strict=True):
            assert scale_at_call(service, proxy, 503, call, replicas) > 1
            assert service.replicas == replicas


def test_who_may_not_forward_ports_is_told_at_once(
    proxied, access, proxy
) -> None:
    forward, asked = proxy.forward, []

    def forbid(request, body):
        if "portforward" not in request.path:
            return forward(request, body)
        asked.append(request.path)
        return 403, '{"message": "no right to pods/portforward"}'

    proxy.forward = forbid
    begun = time.monotonic()
    with pytest.raises(ResourceFailed, match="403 no right to pods/portfo"):
        proxied.deploy_triton(
            BUCKET, gpus=0, service="port-forward", timeout=60
        )
    assert time.monotonic() - begun < 30
    assert len(asked) == 1
    assert left(access) == []
