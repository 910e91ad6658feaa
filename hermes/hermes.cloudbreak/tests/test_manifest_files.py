"""Manifests in files, and values in them."""

from __future__ import annotations

import pytest

from hermes.cloudbreak.errors import InvalidSpec
from hermes.cloudbreak.manifest_files import load_manifests

TEXT = """
apiVersion: v1
kind: Service
metadata: {name: "${name}-web"}
spec: {ports: [{port: "${port}"}]}
---
apiVersion: example.com/v1
kind: Whatever
metadata: {name: more}
anything: goes
"""


def write(tmp_path, text):
    path = tmp_path / "manifests.yaml"
    path.write_text(text)
    return path


def test_values_are_put_in_with_their_types(tmp_path) -> None:
    service, other = load_manifests(
        write(tmp_path, TEXT), {"name": "a", "port": 80}
    )
    assert service["metadata"]["name"] == "a-web"
    assert service["spec"]["ports"] == [{"port": 80}]
    assert other["anything"] == "goes"


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        (TEXT, {"name": "a"}, r"needs values for \['port'\]; given are"),
        (TEXT, {"name": "a", "port": 1, "b": 2}, r"has no place for \['b'\]"),
        (TEXT, {"name": "a", "port": "80"}, "document 1: spec.ports.0.port: "),
        (TEXT.replace("ports", "prots"), {"name": "a", "port": 1},
         "spec.prots: extra inputs are not permitted"),
        ("a: [", {}, "is not YAML"),
        ("a: 1\na: 2", {}, "'a' is there twice"),
        ("- 1", {}, "a mapping is expected, not"),
        ("kind: Service", {}, "apiVersion, metadata.name has to be there"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_sent(
    tmp_path, text, values, message
) -> None:
    with pytest.raises(InvalidSpec, match=message):
        load_manifests(write(tmp_path, text), values)
