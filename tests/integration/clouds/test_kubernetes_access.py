"""Calls of a real Kubernetes cluster."""

from __future__ import annotations

import base64
import contextlib
import json
from pathlib import Path

import pytest
import yaml

from hermes.cloudbreak._access import POD, SERVICE, Access, Type
from hermes.cloudbreak.errors import (
    AlreadyThere,
    CloudUnavailable,
    InvalidSpec,
    NotThere,
    QuotaExceeded,
    Refused,
)

pytestmark = [pytest.mark.kubernetes, pytest.mark.usefixtures("at_home")]

CONFIG_MAP = Type("v1", "ConfigMap")


def config(name: str, **data: str) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"of": "test"}},
        "data": data,
    }


def test_objects_are_created_applied_listed_and_deleted(access) -> None:
    assert access.create(config("a", x="1"))["metadata"]["uid"]
    with pytest.raises(AlreadyThere, match='configmaps "a" already exists'):
        access.create(config("a"))
    access.apply(config("a", x="2"))
    access.apply(config("b", y="3"), dry_run=True)
    assert access.get(CONFIG_MAP, "a")["data"] == {"x": "2"}
    listed = access.list(CONFIG_MAP, "of=test")
    assert [each["metadata"]["name"] for each in listed] == ["a"]
    with pytest.raises(NotThere, match="409 "):
        access.delete(CONFIG_MAP, "a", uid="another")
    access.delete(CONFIG_MAP, "a")
    with pytest.raises(NotThere, match="404 "):
        access.delete(CONFIG_MAP, "b")


def test_what_others_own_of_an_object_stays(access) -> None:
    access.apply(config("a", x="1"))
    access.patch(CONFIG_MAP, "a", {"data": {"theirs": "2"}})
    access.apply(config("a", x="3"))
    data = access.get(CONFIG_MAP, "a")["data"]
    assert data == {"x": "3", "theirs": "2"}


def test_what_is_refused_says_why(access) -> None:
    wrong = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "a"},
        "spec": {"ports": [{"port": 99999}]},
    }
    with pytest.raises(Refused, match=r"422 .*spec.ports\[0\].port"):
        access.create(wrong)
    assert access.list(SERVICE) == []


def test_a_kind_or_version_that_is_not_there_is_said(access) -> None:
    assert access.supports("apps/v1")
    assert not access.supports("policy/v1")  # not in 1.20
    with pytest.raises(NotThere, match="has no Poodle in v1"):
        access.list(Type("v1", "Poodle"))


def test_a_quota_is_told_apart_from_missing_rights(access) -> None:
    access.create({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few"},
        "spec": {"hard": {"configmaps": "0"}},
    })  # fmt: skip

    def create_some() -> None:
        for number in range(100):  # it takes a moment to hold
            access.create(config(f"a{number}"))

    with pytest.raises(QuotaExceeded, match="exceeded quota: few"):
        create_some()


def test_a_token_is_asked_for_again_when_it_is_refused(control_plane) -> None:
    tokens = iter(["stale", control_plane.token])
    access = Access.to_server(
        control_plane.server, ca=control_plane.ca, token=lambda: next(tokens)
    )
    assert isinstance(access.list(POD), list)
    assert next(tokens, None) is None
    assert isinstance(access.list(POD), list)  # and not once more
    access.close()


def test_no_secret_is_in_what_is_shown(control_plane) -> None:
    access = Access.to_server(
        control_plane.server,
        ca=control_plane.ca,
        token=lambda: "secret-and-wrong",
    )
    with pytest.raises(Refused, match="401 Unauthorized") as caught:
        access.list(POD)
    with pytest.raises(Refused, match="401") as other:
        access.connect("a", 8000)
    for shown in (caught.value, other.value, access, access._connection):
        assert "secret-and-wrong" not in f"{shown!r} {shown}"
    access.close()


def test_who_is_not_the_cluster_is_not_talked_to(control_plane) -> None:
    state = control_plane.kubeconfig.parent
    other = Access.to_server(
        control_plane.server,
        ca=(state / "admin.crt").read_text(),
        token=lambda: control_plane.token,
    )
    with pytest.raises(Refused, match="CERTIFICATE_VERIFY_FAILED"):
        other.list(POD)
    other.close()


def test_nobody_there_is_no_answer() -> None:
    access = Access.to_server(
        "http://127.0.0.1:9", ca="", token=lambda: "token"
    )
    with pytest.raises(CloudUnavailable, match="refused"):
        access.list(POD)
    with pytest.raises(CloudUnavailable, match="refused"):
        access.connect("pod", 8000)
    access.close()


def test_a_proxy_for_the_world_is_not_used_for_loopback(
    control_plane, monkeypatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.com")
    monkeypatch.setenv("no_proxy", "example.com")
    access = Access.from_kubeconfig(control_plane.kubeconfig)
    assert isinstance(access.list(POD), list)
    with pytest.raises(NotThere, match="404"):
        access.connect("no-such-pod", 8000)
    access.close()


def test_keys_in_a_kubeconfig_are_written_to_no_disk(
    control_plane, tmp_path, monkeypatch
) -> None:
    found = yaml.safe_load(control_plane.kubeconfig.read_text())
    for part in (found["clusters"][0]["cluster"], found["users"][0]["user"]):
        for name in list(part):
            if name != "server":
                content = Path(part.pop(name)).read_bytes()
                part[f"{name}-data"] = base64.b64encode(content).decode()
    named = {"cluster": "t", "user": "a", "namespace": "kube-system"}
    found["contexts"].append({"name": "other", "context": named})
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(found))
    monkeypatch.setenv("KUBECONFIG", str(path))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    access = Access.from_kubeconfig(context="other")
    assert access.namespace == "kube-system"
    assert isinstance(access.list(POD), list)
    assert list(scratch.iterdir()) == []
    access.close()


def test_a_kubeconfig_that_is_not_there_is_refused(control_plane) -> None:
    with pytest.raises(InvalidSpec, match="no-kubeconfig"):
        Access.from_kubeconfig()
    with pytest.raises(InvalidSpec, match=r"context='x' is not in .*\['t'\]"):
        Access.from_kubeconfig(control_plane.kubeconfig, "x")


def test_a_program_may_give_the_credentials_and_the_context_be_named(
    control_plane, namespace, tmp_path
) -> None:
    found = yaml.safe_load(control_plane.kubeconfig.read_text())
    del found["current-context"]
    status = {"status": {"token": control_plane.token}}
    (tmp_path / "answer").write_text(json.dumps(status))
    plugin = {"apiVersion": "client.authentication.k8s.io/v1"}
    plugin |= {"command": "cat", "args": ["answer"]}
    found["users"][0]["user"] = {"exec": plugin}
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(found))
    with pytest.raises(InvalidSpec, match=r"has no current-context: give co"):
        Access.from_kubeconfig(path)
    name = found["contexts"][0]["name"]
    access = Access.from_kubeconfig(path, name, namespace)
    with contextlib.closing(access):
        assert access.list(POD) == []
    plugin["command"] = "false"
    path.write_text(yaml.safe_dump(found))
    with pytest.raises(Refused, match="'false' of the kubeconfig ended with"):
        Access.from_kubeconfig(path, name)
