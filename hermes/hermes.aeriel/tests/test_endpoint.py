"""Endpoints as values and as files."""

import json
from pathlib import Path

import pytest

from hermes.aeriel.endpoint import Endpoint, EndpointLike
from hermes.aeriel.errors import InvalidEndpoint

ENDPOINT = Endpoint("node7:8001", "node7:8000", "node7:8002")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a server's endpoint"
    ENDPOINT.save(path)
    assert Endpoint.load(path) == ENDPOINT
    like: EndpointLike = Endpoint.load(str(path))
    assert like.grpc == "node7:8001"


def test_saving_again_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.json"
    Endpoint("a:1", "a:2", "a:3").save(path)
    ENDPOINT.save(path)
    assert Endpoint.load(path) == ENDPOINT
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.json"
    path.mkdir()
    with pytest.raises(OSError, match=r"endpoint\.json"):
        ENDPOINT.save(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone; make"):
        ENDPOINT.save(tmp_path / "gone" / "endpoint.json")


def test_members_of_later_versions_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.json"
    names = {"grpc": "a:1", "http": "a:2", "metrics": "a:3", "more": None}
    path.write_text(json.dumps(names))
    assert Endpoint.load(path) == Endpoint("a:1", "a:2", "a:3")


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Endpoint.load(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"grpc: 1"])
def test_a_file_that_is_not_json_is_refused(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "endpoint.json"
    path.write_bytes(content)
    with pytest.raises(InvalidEndpoint, match=r"endpoint\.json is not JSON"):
        Endpoint.load(path)


@pytest.mark.parametrize("content", ["[]", "1", '{"grpc": "a:1"}'])
def test_json_that_is_no_endpoint_is_refused(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "endpoint.json"
    path.write_text(content)
    with pytest.raises(InvalidEndpoint, match="with grpc, http, metrics"):
        Endpoint.load(path)


@pytest.mark.parametrize(
    "address",
    ["", "host", ":1", "host:", "host:0", "host:65536", "http://a:1", 8001],
)
def test_an_address_is_host_and_port(address: object) -> None:
    with pytest.raises(InvalidEndpoint, match='http must be "host:port"'):
        Endpoint("a:1", address, "a:3")  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["10.0.0.1:1", "[::1]:80", "a-b.c:65535"])
def test_addresses_of_every_kind_are_taken(address: str) -> None:
    assert Endpoint(address, "a:2", "a:3").grpc == address
