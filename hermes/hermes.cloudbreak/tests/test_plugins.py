"""Programs that give credentials, as kubeconfig files name them."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import psutil
import pytest

from hermes.cloudbreak._plugins import run_plugin
from hermes.cloudbreak.errors import CloudUnavailable, InvalidSpec, Refused

CLUSTER = {"server": "https://here"}
VERSION = "client.authentication.k8s.io/v1"


def plugin(script: str, **more: object) -> dict:
    return {
        "apiVersion": VERSION,
        "command": "sh",
        "args": ["-c", script],
        **more,
    }


def test_a_token_is_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "answer").write_text('{"status": {"token": "abc"}}')
    # It runs where the file is.
    assert run_plugin(plugin("cat answer"), str(tmp_path), CLUSTER) == {
        "token": "abc"
    }


def test_certificates_are_given_as_a_file_has_them() -> None:
    status = {"clientCertificateData": "PEM", "clientKeyData": "KEY"}
    script = f"echo '{json.dumps({'status': status})}'"
    found = run_plugin(plugin(script), "", CLUSTER)
    assert base64.b64decode(found["client-certificate-data"]) == b"PEM"
    assert base64.b64decode(found["client-key-data"]) == b"KEY"


def test_it_is_told_what_is_asked_for() -> None:
    script = 'printf \'{"status": {"token": "%s"}}\' '
    script += '"$(printf "$NAME $KUBERNETES_EXEC_INFO" | base64 -w0)"'
    env = [{"name": "NAME", "value": "me"}]
    asked = plugin(script, env=env, provideClusterInfo=True)
    said = base64.b64decode(run_plugin(asked, "", CLUSTER)["token"]).decode()
    name, _, info = said.partition(" ")
    assert name == "me"
    assert json.loads(info) == {
        "apiVersion": VERSION,
        "kind": "ExecCredential",
        "spec": {"interactive": False, "cluster": CLUSTER},
    }


def test_one_that_hangs_is_ended_with_all_that_it_has_started() -> None:
    begun = time.monotonic()
    with pytest.raises(CloudUnavailable, match=r"within 0.3 s, and was ended"):
        run_plugin(plugin("sleep 321 & sleep 321"), "", CLUSTER, limit=0.3)
    assert time.monotonic() - begun < 5
    assert not [
        each
        for each in psutil.process_iter(["cmdline", "status"])
        if "321" in (each.info["cmdline"] or ())
        and each.info["status"] != psutil.STATUS_ZOMBIE
    ]


def test_one_that_is_not_there_is_said_with_its_hint() -> None:
    asked = {"command": "no-such-plugin", "installHint": "get it there"}
    with pytest.raises(InvalidSpec, match=r"no-such-plugin' .*; get it there"):
        run_plugin(asked, "", CLUSTER)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo who are you >&2; exit 3", "exit code 3: who are you"),
        ("echo s3cret", "neither a token nor a certificate"),
        ('echo \'{"status": {"clientKeyData": "s3cret"}}\'', "neither"),
        ("echo '[\"s3cret\"]'", "neither a token"),
    ],
)
def test_one_that_gives_none_is_refused_without_its_secrets(
    script: str, message: str
) -> None:
    with pytest.raises(Refused, match=message) as caught:
        run_plugin(plugin(script), "", CLUSTER)
    assert "s3cret" not in str(caught.value)
