"""``hermes-serve`` without a server, and ``pull`` without a registry."""

import subprocess
import sys
from pathlib import Path

import pytest

from hermes.aeriel.errors import (
    ExtraMissing,
    ImagePullFailed,
    RuntimeMissing,
)
from hermes.aeriel.serve import _images
from hermes.aeriel.serve._checkup import _files, _name, _namespaces, _shm
from hermes.aeriel.serve._cli import main

RECORDER = """#!/bin/sh
[ "$1" = --version ] && echo singularity version 9 && exit
for word in "$@"; do echo "$word" >>"{record}"; done
echo "working" >&2
{more}
"""


class Singularity:
    """A program that writes down what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.record = folder / "record"
        self._program = folder / "bin" / "singularity"
        self._program.parent.mkdir()
        self.does("exit 0")

    @property
    def path(self) -> str:
        return f"{self._program.parent}:/usr/bin:/bin"

    def does(self, more: str) -> None:
        self._program.write_text(
            RECORDER.format(record=self.record, more=more)
        )
        self._program.chmod(0o755)

    def asked(self) -> list[str]:
        return self.record.read_text().splitlines()


@pytest.fixture
def singularity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Singularity:
    made = Singularity(tmp_path)
    monkeypatch.setenv("PATH", made.path)
    monkeypatch.chdir(tmp_path)
    return made


def test_a_place_for_the_endpoint_is_looked_for_before_serving(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "missing" / "endpoint.json"
    assert main([str(tmp_path), "--endpoint-file", str(file)]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert "missing is no folder that you can write to; make it" in errors


def test_pull_gets_nvidias_image(
    singularity: Singularity,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["pull"]) == 0
    target = f"{tmp_path}/tritonserver_24.10-py3.sif"
    assert singularity.asked() == [
        "pull",
        target,
        "docker://nvcr.io/nvidia/tritonserver:24.10-py3",
    ]
    told = capsys.readouterr().out
    assert told.splitlines() == [
        "working",
        f"{target} is ready: serve(repository, image='{target}')",
    ]


def test_pull_gets_what_it_is_told_to(
    singularity: Singularity, tmp_path: Path
) -> None:
    output = tmp_path / "my image.sif"
    output.touch()
    source = "oras://example.org/triton:1"
    assert main(["pull", source, "--force", "--output", str(output)]) == 0
    assert singularity.asked() == ["pull", "--force", str(output), source]


def test_pull_builds_from_a_definition(
    singularity: Singularity, tmp_path: Path
) -> None:
    definition = tmp_path / "my.def"
    assert main(["pull", "--definition", str(definition)]) == 0
    assert singularity.asked() == [
        "build",
        f"{tmp_path}/my.sif",
        str(definition),
    ]


def test_pull_builds_a_folder_from_our_definition(
    singularity: Singularity, tmp_path: Path
) -> None:
    assert main(["pull", "--sandbox", "--force"]) == 0
    assert singularity.asked() == [
        "build",
        "--sandbox",
        "--force",
        f"{tmp_path}/triton",
        str(_images.DEFINITION),
    ]
    text = _images.DEFINITION.read_text()
    assert f"From: {_images.SOURCE.removeprefix('docker://')}" in text


def test_pull_tells_why_it_failed(
    singularity: Singularity, capsys: pytest.CaptureFixture[str]
) -> None:
    singularity.does("echo FATAL: no route >&2; exit 255")
    assert main(["pull"]) == 1
    errors = capsys.readouterr().err
    assert "error: could not pull docker://nvcr.io" in errors
    assert errors.endswith(
        "(exit code 255); is its registry within reach of "
        "this machine?\nworking\nFATAL: no route\n"
    )


def test_pull_replaces_nothing_unasked(
    singularity: Singularity, tmp_path: Path
) -> None:
    target = tmp_path / "x.sif"
    target.touch()
    with pytest.raises(ImagePullFailed, match="is there already; remove it"):
        _images.pull_image("docker://a", target, print)
    with pytest.raises(ImagePullFailed, match="there is no folder"):
        _images.pull_image("docker://a", tmp_path / "no" / "x.sif", print)
    assert not singularity.record.exists()


@pytest.mark.usefixtures("singularity")
def test_only_addresses_are_pulled(tmp_path: Path) -> None:
    with pytest.raises(ImagePullFailed, match=r"a\.sif is no address of an"):
        _images.pull_image("a.sif", tmp_path / "x.sif", print)


def test_labels_are_read(singularity: Singularity, tmp_path: Path) -> None:
    singularity.does(
        """echo '{"data": {"attributes": {"labels": {"a": "b"}}}}'"""
    )
    assert _images.labels_of(tmp_path) == {"a": "b"}
    singularity.does("echo FATAL: no image >&2; exit 255")
    with pytest.raises(ImagePullFailed, match=r"inspected: .*FATAL: no image"):
        _images.labels_of(tmp_path)


def test_without_singularity_nothing_is_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeMissing, match="no singularity on PATH"):
        _images.pull_image("docker://a", tmp_path / "x.sif", print)


def without(module: str, code: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys\n"
        f"sys.modules[{module!r}] = None\n"
        f"from hermes.aeriel.serve import _cli, _images\n{code}"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_without_the_extra_there_is_one_line(module: str) -> None:
    done = without(module, "sys.exit(_cli.main(['models']))")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"needs {module}" in done.stderr
    assert "extra cli" in done.stderr


def test_without_spython_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spython.main", None)
    with pytest.raises(ExtraMissing, match="with its extra serve"):
        _images.labels_of(tmp_path)


def test_without_extras_the_runtime_is_managed() -> None:
    program = (
        "import sys\n"
        "for name in ('typer', 'rich', 'spython'): sys.modules[name] = None\n"
        "from hermes.aeriel.serve.__main__ import main\n"
        "main(['status', '--prefix', '/no/where'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert "runtime    HERMES_TRITON points to /no/where" in done.stdout


@pytest.mark.parametrize(
    "words", [["--help"], [], ["serve", "--help"], ["pull", "--help"]]
)
def test_help_is_shown(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) in (0, 2)
    shown = capsys.readouterr()
    assert "Usage: hermes-serve" in shown.out + shown.err


def test_a_repository_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "gone"), "--free-ports"]) == 1
    assert capsys.readouterr().err == (
        f"error: model repository {tmp_path}/gone does not exist\n"
    )


def test_an_option_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models", "--nonsense"]) == 2
    assert "No such option: --nonsense" in capsys.readouterr().err


def test_what_follows_two_dashes_is_for_triton(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models" / "a").mkdir(parents=True)
    assert main([str(tmp_path / "models"), "--", "--id=x"]) == 1
    told = capsys.readouterr().err
    assert told == "error: server_args must not contain --id: use name=\n"


def test_status_is_the_runtimes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--prefix", str(tmp_path / "gone")]) == 1
    assert "gone, which does not exist" in capsys.readouterr().out


def test_check_tells_what_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HERMES_TRITON", str(tmp_path / "gone"))
    assert main(["check"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("MISSING Triton: HERMES_TRITON points to")
    names = [line[8:].partition(":")[0] for line in told]
    assert names == [
        "Triton",
        "GPUs",
        "ports",
        "/dev/shm",  # noqa: S108
        "open files",
        "host name",
    ]
    assert main(["check", "--image", str(tmp_path / "none.sif")]) == 1
    told = capsys.readouterr().out.splitlines()
    assert "there is no image" in told[0]
    assert "user namespaces" in told[1]


def test_findings_tell_what_they_found(tmp_path: Path) -> None:
    assert _shm(tmp_path).told.endswith(("are free", "may not start"))
    assert _shm(tmp_path / "gone").is_good is False
    assert _files().is_good in (True, None)
    assert _name("localhost").is_good is None
    assert "no address" in _name("no.such.host.invalid").told
    number = tmp_path / "number"
    assert _namespaces(number).is_good in (True, None)
    number.write_text("0")
    assert _namespaces(number).is_good in (True, None)
