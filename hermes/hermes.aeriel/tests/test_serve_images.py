"""Images of containers: found, looked at, and run with which command."""

import platform
import struct
from pathlib import Path

import pytest

from hermes.aeriel.errors import ImageNotFound, ImageUnusable, RuntimeMissing
from hermes.aeriel.serve._image_files import (
    IMAGE_ROOTS,
    check_image,
    find_image,
    image_roots_of,
)
from hermes.aeriel.serve._runtimes import (
    ApptainerRuntime,
    Bind,
    Request,
    choose_runtime,
)
from hermes.aeriel.serve._runtimes._apptainer import (
    container_command,
    container_executable,
)

HERE = {"x86_64": (b"02", 62), "aarch64": (b"04", 183)}
CODE, MACHINE = HERE[platform.machine()]


def write_sif(path: Path, code: bytes = CODE, missing: int = 0) -> Path:
    header = b"#!/usr/bin/env run-singularity\n\0" + b"SIF_MAGIC\0" + b"01\0"
    header += code + b"\0" + bytes(64)
    header = header[:0x70] + struct.pack("<qq", 4096, 1000)
    path.write_bytes(header.ljust(5096 - missing, b"\0"))
    return path


def write_folder(path: Path, machine: int = MACHINE) -> Path:
    (path / "usr" / "bin").mkdir(parents=True)
    (path / "bin").symlink_to("usr/bin")
    elf = b"\x7fELF".ljust(18, b"\0") + struct.pack("<H", machine)
    (path / "usr" / "bin" / "bash").write_bytes(elf)
    return path


def test_images_are_files_or_folders(tmp_path: Path) -> None:
    check_image(write_sif(tmp_path / "a.sif"))
    check_image(write_folder(tmp_path / "folder"))
    (tmp_path / "squashfs").write_bytes(b"hsqs")
    check_image(tmp_path / "squashfs")


def test_a_script_may_be_a_shell(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder")
    (folder / "usr" / "bin" / "bash").write_text("#!/bin/busybox")
    check_image(folder)


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"#!/bin/sh\n"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.sif").write_bytes(content)
    with pytest.raises(ImageUnusable, match=r"x\.sif is neither a SIF file"):
        check_image(tmp_path / "x.sif")


def test_a_folder_without_a_shell_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageUnusable, match="holds no container: there is no"):
        check_image(tmp_path)


def test_a_part_of_an_image_is_refused(tmp_path: Path) -> None:
    image = write_sif(tmp_path / "a.sif", missing=7)
    with pytest.raises(ImageUnusable, match="it has 5089 bytes of 5096; copy"):
        check_image(image)


def test_images_of_other_machines_are_refused(tmp_path: Path) -> None:
    image = write_sif(tmp_path / "a.sif", code=b"11")
    with pytest.raises(ImageUnusable, match="of architecture s390x, this one"):
        check_image(image)
    folder = write_folder(tmp_path / "folder", machine=243)
    with pytest.raises(ImageUnusable, match="of architecture riscv64, this"):
        check_image(folder)


def test_an_image_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageUnusable, match="gone cannot be read"):
        check_image(tmp_path / "gone")


def test_relative_images_are_looked_up_in_the_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, first, second = (tmp_path / name for name in ("here", "a", "b"))
    for folder in (home, first, second):
        (folder / "hermes").mkdir(parents=True)
    monkeypatch.chdir(home)
    roots = [str(first), second]
    image = write_sif(second / "hermes" / "tritonserver:24.10")
    assert find_image("hermes/tritonserver:24.10", roots) == image
    image = write_sif(first / "hermes" / "tritonserver:24.10.sif")
    assert find_image("hermes/tritonserver:24.10", roots) == image
    image = write_sif(home / "hermes" / "tritonserver:24.10")
    assert find_image("hermes/tritonserver:24.10", roots) == image
    assert find_image(image, []) == image


def test_where_an_image_was_looked_for_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound, match=rf"'x' in .*, {tmp_path}; give"):
        find_image("x", [tmp_path])
    with pytest.raises(ImageNotFound, match="'' in an empty path"):
        find_image("", [tmp_path])


def test_images_of_registries_are_pulled_first() -> None:
    url = "docker://nvcr.io/nvidia/tritonserver:24.10-py3"
    with pytest.raises(ImageNotFound, match=f"`hermes-serve pull {url}`"):
        find_image(url, [])


def test_the_roots_are_configurable(tmp_path: Path) -> None:
    assert image_roots_of({}) == IMAGE_ROOTS
    assert image_roots_of({"HERMES_IMAGE_ROOTS": "/a:/b"}) == ["/a", "/b"]
    write_sif(tmp_path / "a.sif")
    program = tmp_path / "singularity"
    program.touch(0o755)
    environ = {"PATH": str(tmp_path), "HERMES_IMAGE_ROOTS": str(tmp_path)}
    runtime = ApptainerRuntime(program, tmp_path / "a.sif")
    assert choose_runtime("a", environ) == runtime
    assert choose_runtime("a", {"PATH": str(tmp_path)}, [tmp_path]) == runtime
    assert str(runtime) == f"{tmp_path}/a.sif, run by {program}"


def test_apptainer_comes_before_singularity(tmp_path: Path) -> None:
    environ = {"PATH": str(tmp_path)}
    with pytest.raises(RuntimeMissing, match="there is none on PATH; load"):
        container_executable(environ)
    for name in ("singularity", "apptainer"):
        (tmp_path / name).touch(0o755)
        assert container_executable(environ) == tmp_path / name


def command(
    *binds: Bind, with_gpus: bool = False, with_home: bool = False
) -> tuple[str, ...]:
    return container_command(
        Path("/bin/apptainer"),
        Path("/a b.sif"),
        binds=binds,
        with_gpus=with_gpus,
        with_home=with_home,
    )


def test_a_container_is_a_foreground_process_of_its_own() -> None:
    assert command() == (
        "/bin/apptainer",
        "exec",
        "--cleanenv",
        "--no-home",
        "--pwd",
        "/",
        "/a b.sif",
    )
    assert "--nv" in command(with_gpus=True)
    assert "--no-home" not in command(with_home=True)


def test_any_path_can_be_bound() -> None:
    found = command(
        Bind("/a b:c", "/d", read_only=True), Bind('/e,"f"', '/e,"f"')
    )
    mounts = [
        found[i + 1] for i, word in enumerate(found) if word[2:] == "mount"
    ]
    assert mounts == [
        "type=bind,source=/a b:c,destination=/d,ro",
        'type=bind,"source=/e,""f""","destination=/e,""f"""',
    ]


def launched(
    repository: Path | str,
    environ: dict[str, str] | None = None,
    env: dict[str, str] | None = None,
    **options: object,
):
    request = Request((str(repository),), environ or {}, env or {}, **options)
    runtime = ApptainerRuntime(Path("/bin/apptainer"), Path("/i.sif"))
    with runtime.launch(request) as launch:
        return launch


def test_a_repository_is_seen_at_its_own_path(tmp_path: Path) -> None:
    launch = launched(tmp_path)
    assert launch.repositories == (str(tmp_path),)
    mount = f"type=bind,source={tmp_path},destination={tmp_path},ro"
    assert mount in launch.outer
    assert launch.argv == ("tritonserver",)
    assert launch.cwd == "/"


def test_a_path_that_a_shell_takes_apart_is_seen_at_another(
    tmp_path: Path,
) -> None:
    odd = tmp_path / "a $b"
    odd.mkdir()
    launch = launched(odd)
    assert launch.repositories == ("/mnt/hermes-models-0",)
    for target in (odd, "/mnt/hermes-models-0"):
        assert f"type=bind,source={odd},destination={target},ro" in (
            launch.outer
        )


def test_what_a_repository_links_to_is_seen(tmp_path: Path) -> None:
    (tmp_path / "models" / "a").mkdir(parents=True)
    (tmp_path / "weights").touch()
    (tmp_path / "models" / "a" / "x").symlink_to(tmp_path / "weights")
    weights = f"{tmp_path}/weights"
    mount = f"type=bind,source={weights},destination={weights},ro"
    assert mount in launched(tmp_path / "models").outer


def test_credentials_for_buckets_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "key.json"
    file.touch()
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
    launch = launched("gs://bucket/models", environ)
    assert launch.repositories == ("gs://bucket/models",)
    assert f"type=bind,source={file},destination={file},ro" in launch.outer
    assert "--no-home" not in launch.outer
    assert launch.handed["GOOGLE_APPLICATION_CREDENTIALS"] == str(file)


def test_only_what_triton_reads_enters_the_container(tmp_path: Path) -> None:
    environ = {
        "PYTHONPATH": "/poison",
        "LD_LIBRARY_PATH": "/poison",
        "LD_PRELOAD": "/poison.so",
        "BASH_ENV": "/poison",
        "PATH": "/poison",
        "AWS_REGION": "here",
        "CUDA_VISIBLE_DEVICES": "1",
        "https_proxy": "p",
    }
    env = {"CUDA_VISIBLE_DEVICES": "0", "PYTHONPATH": "/wanted"}
    launch = launched(tmp_path, environ, env)
    assert launch.env == environ  # Apptainer's own, which it keeps there
    assert "--cleanenv" in launch.outer
    assert launch.handed == {
        "AWS_REGION": "here",
        "CUDA_VISIBLE_DEVICES": "0",
        "https_proxy": "p",
        "PYTHONPATH": "/wanted",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
    }
    assert not any(
        value in " ".join(launch.outer)
        for value in env.values()
        if len(value) > 1
    )
