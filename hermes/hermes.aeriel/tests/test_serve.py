"""What ``serve()`` refuses before it starts anything."""

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from hermes.aeriel.errors import (
    InvalidServeOption,
    PortTaken,
    RepositoryNotFound,
    RepositoryUnusable,
    RuntimeMissing,
)
from hermes.aeriel.serve import serve
from hermes.aeriel.serve._command import Ports
from hermes.aeriel.serve._log import Log
from hermes.aeriel.serve._ports import (
    Reservation,
    advertised,
    numeric_address,
    reachable,
)
from hermes.aeriel.serve._repository import (
    check_repositories,
    check_repository,
    links_out_of,
)

WILDCARD = "0.0.0.0"  # noqa: S104


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "models" / "network" / "1").mkdir(parents=True)
    return tmp_path / "models"


def make_image(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "bash").touch()
    return folder


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/opt/tritonserver").exists():
        pytest.skip("this machine has a Triton")
    monkeypatch.delenv("HERMES_TRITON", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", os.defpath)


@pytest.mark.usefixtures("bare_machine")
def test_without_a_runtime_the_command_is_named(repository: Path) -> None:
    with pytest.raises(
        RuntimeMissing, match=r"run `python -m hermes\.aeriel\.serve install`"
    ):
        serve(repository)


@pytest.mark.usefixtures("bare_machine")
def test_without_apptainer_there_are_no_images(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    image = make_image(tmp_path / "image")
    with pytest.raises(RuntimeMissing, match="needs apptainer or singularity"):
        serve(repository, image)


def test_the_environment_maps_names_to_strings(repository: Path) -> None:
    with pytest.raises(InvalidServeOption, match="'A': 1"):
        serve(repository, env={"A": 1})  # type: ignore[dict-item]
    with pytest.raises(InvalidServeOption, match="'A B': 'x'"):
        serve(repository, env={"A B": "x"})


def test_gpus_are_chosen_once(repository: Path) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "0"}
    with pytest.raises(InvalidServeOption, match="gpus= and CUDA_VISIBLE_DEV"):
        serve(repository, gpus=[0], env=env)


def test_how_long_to_wait_is_not_said_here(repository: Path) -> None:
    with pytest.raises(InvalidServeOption, match=r"wait=0.1 is neither"):
        serve(repository, wait=0.1)  # type: ignore[arg-type]


def test_several_repositories_may_be_given(repository: Path) -> None:
    several = [repository, "gs://bucket/models"]
    found = check_repositories(several, may_be_empty=False)
    assert found == (str(repository), "gs://bucket/models")
    found = check_repositories(repository, may_be_empty=False)
    assert found == (str(repository),)
    with pytest.raises(InvalidServeOption, match="at least one"):
        check_repositories([], may_be_empty=False)


def test_links_out_of_a_repository_are_found(repository: Path) -> None:
    elsewhere = repository.parent / "elsewhere"
    elsewhere.touch()
    version = repository / "network" / "1"
    (version / "model.onnx").symlink_to(elsewhere)
    (version / "inside").symlink_to(version)
    (version / "gone").symlink_to("nowhere")
    assert list(links_out_of(repository)) == [str(elsewhere)]


@pytest.mark.parametrize("host", ["a:8001", "http://a", "", "a b"])
def test_what_is_advertised_is_a_host(repository: Path, host: str) -> None:
    with pytest.raises(InvalidServeOption, match="advertise must be a host"):
        serve(repository, advertise=host)


def test_binds_are_for_containers(repository: Path) -> None:
    with pytest.raises(InvalidServeOption, match="binds= is for containers"):
        serve(repository, binds=["/data"])


@pytest.mark.parametrize(
    "bind",
    [
        "/no/where",
        "/:relative",
        "/:/a:rx",
        ("/", "/a", "ro", "x"),
        "",
    ],
)
def test_a_bind_has_a_source_that_exists(
    repository: Path, tmp_path: Path, bind: str
) -> None:
    image = make_image(tmp_path / "image")
    with pytest.raises(InvalidServeOption, match="binds must be paths that"):
        serve(repository, image, binds=[bind])


def test_binds_are_a_sequence(repository: Path, tmp_path: Path) -> None:
    image = make_image(tmp_path / "image")
    with pytest.raises(InvalidServeOption, match=r"such as \['/data'\]"):
        serve(repository, image, binds="/data")


def test_a_repository_may_be_a_path_or_an_object(repository: Path) -> None:
    for form in (
        repository,
        str(repository),
        SimpleNamespace(root=repository),
        SimpleNamespace(root=str(repository)),
    ):
        found = check_repository(form, may_be_empty=False)
        assert found == str(repository)


@pytest.mark.parametrize(
    "url", ["gs://bucket/models", "s3://http://host:9000/bucket/a/b"]
)
def test_what_is_in_a_bucket_is_for_triton_to_see(url: str) -> None:
    assert check_repository(url, may_be_empty=False) == url


@pytest.mark.parametrize("repository", [None, 3, object()])
def test_what_is_no_path_is_refused(repository: object) -> None:
    with pytest.raises(InvalidServeOption, match="must be a path, a URL or"):
        check_repository(repository, may_be_empty=False)


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidServeOption, match=r"log_file=.* cannot be wri"):
        Log(tmp_path / "missing" / "log")


def test_a_relative_path_is_made_absolute(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository.parent)
    assert check_repository("models", may_be_empty=False) == str(repository)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nowhere", "nowhere does not exist"),
        ("models/file", "file is not a directory"),
        (
            "memory://models",
            "Triton cannot read memory://models; give a local",
        ),
    ],
)
def test_a_repository_is_a_local_directory(
    repository: Path, monkeypatch: pytest.MonkeyPatch, path: str, why: str
) -> None:
    (repository / "file").touch()
    monkeypatch.chdir(repository.parent)
    with pytest.raises(RepositoryNotFound, match=why) as caught:
        serve(path)
    assert isinstance(caught.value, FileNotFoundError)


def test_an_empty_repository_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README").touch()
    with pytest.raises(RepositoryUnusable, match="is empty: it must have"):
        serve(tmp_path)
    assert check_repository(tmp_path, may_be_empty=True) == str(tmp_path)


def test_a_model_for_a_repository_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net" / "1").mkdir(parents=True)
    (tmp_path / "net" / "config.pbtxt").touch()
    with pytest.raises(RepositoryUnusable, match=f"it is in, {tmp_path}$"):
        serve(tmp_path / "net")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "::1", 5, "a" * 99])
def test_a_host_has_an_ipv4_address(host: object) -> None:
    with pytest.raises(InvalidServeOption, match="host must be an IPv4"):
        numeric_address(host)  # type: ignore[arg-type]


def test_names_become_numbers() -> None:
    assert numeric_address("localhost") == "127.0.0.1"


def test_a_wildcard_is_advertised_as_this_machine() -> None:
    assert advertised(WILDCARD) == socket.gethostname()
    assert reachable(WILDCARD) == "127.0.0.1"
    assert advertised("127.0.0.1") == reachable("127.0.0.1") == "127.0.0.1"


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"metrics.*:{port}") as caught:
            Reservation("127.0.0.1", Ports(0, 0, port))
    assert "free_ports=True" in str(caught.value)
    assert isinstance(caught.value, OSError)


def test_an_address_of_another_machine_cannot_be_bound() -> None:
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1:8000"):
        Reservation("192.0.2.1", Ports())


def test_reserved_ports_are_free_for_the_server_only() -> None:
    reservation = Reservation("127.0.0.1", Ports(0, 0, 0))
    ports = [port for _, port in reservation.ports.items()]
    assert len(set(ports)) == 3
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", ports[0]))
    with socket.create_server(("127.0.0.1", ports[0])):
        reservation.close()
