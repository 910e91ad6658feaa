"""What the command line refuses, and what it says; nothing is downloaded."""

import io
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from hermes.aeriel.errors import InstallFailed, RuntimeUnusable
from hermes.aeriel.serve import _install
from hermes.aeriel.serve.__main__ import main
from hermes.aeriel.serve._install import install, try_out
from hermes.aeriel.serve._manifest import MANIFEST
from hermes.aeriel.serve._requirements import Facts

FACTS = Facts(
    system="Linux",
    machine="x86_64",
    glibc=(2, 36),
    python=(3, 11),
    free_threaded=False,
    libpython=Path("/lib/libpython3.11.so.1.0"),
    ensurepip=True,
)


def say(_: str) -> None:
    pass


def test_a_machine_that_lacks_something_is_told_before_any_download(
    tmp_path: Path,
) -> None:
    lacking = replace(FACTS, machine="riscv64", ensurepip=False)
    with pytest.raises(InstallFailed, match=r"riscv64\n .*python3\.11-venv"):
        install(tmp_path / "triton", lacking, say)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_others_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InstallFailed, match=r"something else \(thesis\.tex"):
        install(tmp_path, FACTS, say)
    assert (tmp_path / "thesis.tex").exists()


def test_a_file_is_no_prefix(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InstallFailed, match="file is not a directory"):
        install(tmp_path / "file", FACTS, say)


def test_a_prefix_that_no_library_path_can_spell_is_refused() -> None:
    with pytest.raises(InstallFailed, match="a colon or a line break"):
        install(Path("/tmp/a:b"), FACTS, say)  # noqa: S108


def test_a_prefix_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(InstallFailed, match="cannot write beside"):
        install(Path("/proc/none/triton"), FACTS, say)


def test_a_failing_step_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # venv runs, and pip finds no index
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    prefix = tmp_path / "triton"
    with pytest.raises(InstallFailed, match=r"pip download.* exit code 1"):
        install(prefix, FACTS, say)
    assert [path.name for path in tmp_path.iterdir()] == [".triton.lock"]


def test_only_binaries_are_taken_from_the_wheel(tmp_path: Path) -> None:
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (
            "nvidia_pytriton.libs/libtriton.so",
            "nvidia_pytriton.libs/libpython3-1.13.so",
            "pytriton/__init__.py",
            "pytriton/tritonserver/bin/tritonserver",
            "pytriton/tritonserver/backends/python/utils.py",
            "pytriton/tritonserver/python_backend_stubs/3.11/stub",
            "pytriton/tritonserver/python_backend_stubs/3.13/stub",
        ):
            archive.writestr(name, name)
    (tmp_path / "wheel").write_bytes(wheel.getvalue())

    def unpack(place: str, facts: Facts) -> set[str]:
        prefix = tmp_path / place
        _install._unpack(tmp_path / "wheel", prefix, facts)
        assert "3.1" in (prefix / "backends/python/stub").read_text()
        assert (prefix / "bin/tritonserver").stat().st_mode & 0o111 == 0o111
        return {
            str(path.relative_to(prefix))
            for path in prefix.rglob("*")
            if not path.is_dir()
        }

    common = {
        "lib/libtriton.so",
        "bin/tritonserver",
        "backends/python/utils.py",
        "backends/python/stub",
    }
    assert unpack("a", FACTS) == common | {"lib/libpython3.11.so.1.0"}
    brings = replace(FACTS, python=(3, 13), libpython=None)
    assert unpack("b", brings) == common | {"lib/libpython3-1.13.so"}


def test_a_runtime_that_does_not_run_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnusable, match="tritonserver does not run"):
        try_out(tmp_path)
    server = tmp_path / "bin" / "tritonserver"
    server.parent.mkdir()
    server.write_text("#!/bin/sh\necho --model-repository")
    server.chmod(0o755)
    with pytest.raises(RuntimeUnusable, match="cannot import numpy"):
        try_out(tmp_path)


def test_an_extra_that_does_not_exist_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = tmp_path / "triton"
    assert main(["install", "--prefix", str(prefix), "--with", "jax"]) == 1
    assert capsys.readouterr().err == (
        "error: --with jax: there is no such extra; there are tensorflow, "
        "torch\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_extras_stay_when_others_are_added() -> None:
    assert _install._wanted([], []) == []
    assert _install._wanted(["torch"], []) == ["torch"]
    both = ["tensorflow", "torch"]
    assert _install._wanted(["torch"], ["tensorflow", "torch"]) == both
    assert _install._wanted(["of-an-older-aeriel"], ["torch"]) == ["torch"]


def test_help_is_printed_without_arguments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "install" in out
    assert "status" in out


def test_status_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--prefix", str(tmp_path / "none")]) == 1
    out = capsys.readouterr().out
    assert "does not exist" in out
    assert f"serve install --prefix {tmp_path / 'none'}" in out
    assert "glibc" in out


def test_a_refusal_is_an_exit_code_and_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["install", "--prefix", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_the_module_can_be_run() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "hermes.aeriel.serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "python -m hermes.aeriel.serve" in ran.stdout


def test_what_a_killed_installation_left_is_no_runtime(tmp_path: Path) -> None:
    partial = tmp_path / ".triton.partial"
    partial.mkdir()
    (partial / MANIFEST).touch()
    assert main(["status", "--prefix", str(tmp_path / "triton")]) == 1
