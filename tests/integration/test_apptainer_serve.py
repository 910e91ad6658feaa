"""``serve(image=...)`` with a real Apptainer, and a real Triton in it."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from scaling import write_model

from hermes.aeriel.client import InferenceClient
from hermes.aeriel.errors import (
    ImageNotFound,
    ImageUnusable,
    ModelControlFailed,
    ServerDied,
)
from hermes.aeriel.serve import Server, serve
from hermes.aeriel.serve._gpus import count_on_host

pytestmark = pytest.mark.apptainer

SECONDS = 90
ODD = """a b'c"d$(exit 3);é&,e:f`id`"""
VALUES = {
    "SPACES": "a  b ",
    "SHELL_CODE": "$HOME $(id) `id` \\ \" ' ! * ~",
    "LINES": "one\ntwo",
    "EQUALS": "a=b=",
    "EMPTY": "",
    "COMMAS": "a,b:c",
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models")


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python modules and a library that break whatever loads them."""
    poison = tmp_path_factory.mktemp("poison")
    for name in ("numpy", "onnxruntime", "json", "hermes_states"):
        (poison / f"{name}.py").write_text("raise SystemExit('poisoned')")
    for name in ("libcudart.so.12", "libpython3.11.so.1.0", "libdl.so.2"):
        (poison / name).write_text("poison")
    return poison


@pytest.fixture(scope="module")
def server(
    triton_image: Path,
    poisoned: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """A server with everything odd that a node may have."""
    folder = tmp_path_factory.mktemp("served")
    image = folder / "my image's $x"
    image.symlink_to(triton_image)
    (folder / ODD).mkdir()
    (folder / ODD / "data").write_text("bound")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(poisoned)
        for name in ("PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH"):
            patch.setenv(name, str(poisoned))
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
            patch.setenv(name.upper(), "http://127.0.0.1:9")
        patch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-b,7")
        patch.setenv("BASH_ENV", str(poisoned / "json.py"))
        patch.setenv("AWS_REGION", "nowhere")
        server = serve(
            write_model(folder / ODD / "models"),
            image,
            name="mine",
            gpus=[0, 2],
            log_file=folder / ODD / "log",
            free_ports=True,
            binds=[folder / ODD, (folder / ODD, "/mnt/my data", "ro")],
            env=VALUES,
        )
        with server:
            server.wait(SECONDS)
            yield server


def triton(server: Server) -> psutil.Process:
    port = server.endpoint.grpc.rpartition(":")[2]
    for process in psutil.Process().children(recursive=True):
        if process.name() == "tritonserver" and (
            f"--grpc-port={port}" in process.cmdline()
        ):
            return process
    raise AssertionError("no tritonserver")


def environment(server: Server) -> dict[str, str]:
    text = Path(f"/proc/{triton(server).pid}/environ").read_text()
    return dict(pair.split("=", 1) for pair in text.split("\0") if pair)


def test_a_container_answers(server: Server) -> None:
    x = np.arange(4, dtype=np.float32)
    with InferenceClient(server.endpoint, "double") as client:
        np.testing.assert_array_equal(client.predict(x), 2 * x)


def test_variables_of_the_user_reach_the_server(server: Server) -> None:
    environ = environment(server)
    assert {name: environ[name] for name in VALUES} == VALUES


def test_variables_of_the_node_stay_outside(
    server: Server, poisoned: Path
) -> None:
    environ = environment(server)
    assert not {"PYTHONPATH", "PYTHONHOME", "BASH_ENV"} & set(environ)
    assert str(poisoned) not in "".join(environ.values())
    assert environ["AWS_REGION"] == "nowhere"


def test_gpus_are_those_of_the_batch_system(server: Server) -> None:
    assert environment(server)["CUDA_VISIBLE_DEVICES"] == "3,7"


def mounts(server: Server) -> dict[str, str]:
    lines = Path(f"/proc/{triton(server).pid}/mountinfo").read_text()
    fields = [line.split(" ") for line in lines.splitlines()]
    return {
        field[4].encode().decode("unicode_escape").encode("latin1").decode(): (
            field[5]
        )
        for field in fields
    }


def test_the_repository_is_read_only_at_its_own_path(server: Server) -> None:
    found = mounts(server)
    repository = server._start.repositories[0]
    assert found[repository].split(",")[0] == "ro"
    assert Path(repository).name == "models"


def test_binds_are_seen(server: Server) -> None:
    found = mounts(server)
    assert found["/mnt/my data"].split(",")[0] == "ro"
    repository = Path(server._start.repositories[0])
    assert found[str(repository.parent)].split(",")[0] == "rw"
    root = Path(f"/proc/{triton(server).pid}/root/mnt/my data/data")
    assert root.read_text() == "bound"


def test_the_home_stays_outside(server: Server) -> None:
    assert str(Path.home()) not in mounts(server)


def test_the_log_is_the_users_file(server: Server) -> None:
    log = Path(server._start.repositories[0]).parent / "log"
    assert log.read_text() == server.logs()
    assert "successfully loaded 'double'" in server.logs()


def test_the_server_is_shown_as_a_table(server: Server) -> None:
    shown = server._repr_html_()
    for told in (server.endpoint.grpc, "running", "3,7", "mine-"):
        assert told in shown
    assert "my image&#x27;s $x, run by" in shown
    assert "$(exit 3);é&amp;" in shown


def test_a_container_that_loads_on_demand(
    repository: Path, triton_image: Path
) -> None:
    options = {"model_control": "explicit", "free_ports": True, "wait": True}
    with serve(repository, triton_image, gpus=[], **options) as server:
        server.load_model("double")
        x = np.ones(4, np.float32)
        with InferenceClient(server.endpoint, "double") as client:
            assert client.predict(x).tolist() == [2, 2, 2, 2]
        server.unload_model("double")
        with pytest.raises(ModelControlFailed, match="load model 'triple'"):
            server.load_model("triple")
        assert environment(server)["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.skipif(count_on_host() > 0, reason="this machine has a GPU")
def test_without_a_gpu_there_is_one_line_and_no_driver(
    repository: Path,
    triton_image: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "hermes.aeriel.serve")
    with serve(repository, triton_image, free_ports=True) as server:
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "no NVIDIA GPU on this machine" in caplog.text
        server.wait(SECONDS)
        assert "nv files" not in server.logs()


def test_an_image_in_one_file(repository: Path, triton_image: Path) -> None:
    image = triton_image.with_suffix(".sif")
    if not image.exists():
        pytest.skip("no image in one file; scripts/test makes it")
    roots = [image.parent]
    link = repository.parent / "linked"
    (repository / "double" / "1" / "model.onnx").rename(link)
    (repository / "double" / "1" / "model.onnx").symlink_to(link)
    before = Path("/proc/self/mountinfo").read_text()
    with serve(
        repository, "triton-image", free_ports=True, image_roots=roots
    ) as server:
        server.wait(SECONDS)
    assert Path("/proc/self/mountinfo").read_text() == before


def test_an_image_that_is_not_there_is_named(repository: Path) -> None:
    with pytest.raises(ImageNotFound, match=r"no image 'none\.sif' in"):
        serve(repository, "none.sif")


def test_half_an_image_is_noticed_at_once(
    repository: Path, triton_image: Path, tmp_path: Path
) -> None:
    whole = triton_image.with_suffix(".sif")
    if not whole.exists():
        pytest.skip("no image in one file; scripts/test makes it")
    with whole.open("rb") as file:
        (tmp_path / "half.sif").write_bytes(file.read(1 << 20))
    with pytest.raises(ImageUnusable, match=r"damaged: it has 1048576 bytes"):
        serve(repository, tmp_path / "half.sif")


def dies(server: Server, told: str) -> None:
    began = time.monotonic()
    with server, pytest.raises(ServerDied, match=told):
        server.wait(SECONDS)
    assert time.monotonic() - began < 20


def test_a_damaged_image_is_explained(
    repository: Path, triton_image: Path, tmp_path: Path
) -> None:
    image = tmp_path / "damaged.sif"
    with triton_image.with_suffix(".sif").open("rb") as file:
        header = file.read(128)
    size = int.from_bytes(header[0x70:0x78], "little") + int.from_bytes(
        header[0x78:0x80], "little"
    )
    image.write_bytes(header.ljust(size, b"\0"))
    dies(serve(repository, image, free_ports=True), "FATAL: ")


def test_an_image_without_triton_is_explained(
    repository: Path, triton_image: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    without = shutil.ignore_patterns("tritonserver", "python3*", "dist-*")
    shutil.copytree(triton_image, image, symlinks=True, ignore=without)
    server = serve(repository, image, free_ports=True)
    dies(server, r"tritonserver: command not found\nhint: the image must")


def test_a_broken_model_is_explained(
    repository: Path, triton_image: Path
) -> None:
    (repository / "double" / "1" / "model.onnx").write_bytes(b"junk")
    server = serve(repository, triton_image, free_ports=True)
    dies(server, r"ended with exit code 1\nmodel 'double' failed to load")


def test_a_container_is_stopped_gracefully(
    repository: Path, triton_image: Path
) -> None:
    shm = set(os.listdir("/dev/shm"))  # noqa: PTH208, S108
    with serve(repository, triton_image, free_ports=True) as server:
        server.wait(SECONDS)
        process = triton(server)
        prefix = process.cmdline()[-1].rpartition("=")[2]
        began = time.monotonic()
    assert time.monotonic() - began < 6
    assert "successfully unloaded 'double'" in server.logs()
    assert not process.is_running()
    left = set(os.listdir("/dev/shm")) - shm  # noqa: PTH208, S108
    assert not any(name.startswith(prefix) for name in left)
