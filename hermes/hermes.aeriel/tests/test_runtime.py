"""Which Triton is used, whether it is whole, and what it is told."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hermes.aeriel.errors import (
    BackendMissing,
    RepositoryUnusable,
    RuntimeMissing,
    RuntimeStale,
    RuntimeUnusable,
)
from hermes.aeriel.serve._manifest import (
    MANIFEST,
    SOURCES,
    Manifest,
    default_prefix,
    digest,
    list_files,
)
from hermes.aeriel.serve._requirements import Facts, findings, gather
from hermes.aeriel.serve._runtimes import (
    ManagedRuntime,
    Request,
    SystemRuntime,
    _find,
    find_runtime,
    install_command,
    managed_prefix,
)

FACTS = Facts(
    system="Linux",
    machine="x86_64",
    glibc=(2, 36),
    python=(3, 11),
    free_threaded=False,
    libpython=Path("/lib/libpython3.11.so.1.0"),
    ensurepip=True,
)


def test_a_machine_that_has_everything_lacks_nothing() -> None:
    assert findings(FACTS) == ()
    without = replace(FACTS, python=(3, 13), libpython=None)
    assert findings(without) == ()  # Triton brings that one


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"machine": "aarch64"}, "architecture: .* x86-64, .* on aarch64"),
        ({"system": "Darwin"}, "architecture: .* this is Darwin"),
        ({"glibc": (2, 31)}, r"glibc: .* at least 2\.35, .* has 2\.31"),
        ({"glibc": None}, "glibc: .* has another one"),
        ({"python": (3, 10)}, r"Python: 3\.10 cannot .* 3\.11, 3\.12, 3\.13"),
        ({"python": (3, 14)}, r"Python: 3\.14 cannot"),
        ({"free_threaded": True}, r"Python: 3\.11 free-threaded cannot"),
        ({"libpython": None}, r"libpython: .* install libpython3\.11,"),
        ({"ensurepip": False}, r"pip: .* install python3\.11-venv"),
    ],
)
def test_what_a_machine_lacks_is_named(
    change: dict[str, object], expected: str
) -> None:
    found = findings(replace(FACTS, **change))  # type: ignore[arg-type]
    assert len(found) == 1
    assert re.match(expected, found[0])


def test_this_machine_is_looked_at() -> None:
    facts = gather()
    assert facts.system == os.uname().sysname
    assert facts.libpython is None or facts.libpython.is_file()


def make_runtime(prefix: Path) -> Path:
    for name in (
        "bin/tritonserver",
        "venv/bin/python3",
        "lib/libpython.so",
        "backends/a",
    ):
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        (prefix / name).write_text(name)
        (prefix / name).chmod(0o755)
    Manifest(
        digest=digest(),
        triton="2",
        python="3.11",
        libpython="/lib/libpython.so",
        files=list_files(prefix),
    ).write(prefix)
    return prefix


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return make_runtime(tmp_path / "run time")


def test_a_whole_runtime_passes(prefix: Path) -> None:
    ManagedRuntime(prefix).check()


@pytest.mark.parametrize(
    ("damage", "error", "expected"),
    [
        (
            lambda prefix: (prefix / MANIFEST).unlink(),
            RuntimeUnusable,
            "is incomplete; run `python -m hermes.aeriel.serve install",
        ),
        (
            lambda prefix: (prefix / MANIFEST).write_text("{"),
            RuntimeUnusable,
            "is incomplete",
        ),
        (
            lambda prefix: (prefix / "bin/tritonserver").write_text("half"),
            RuntimeUnusable,
            "missing or changed: bin/tritonserver",
        ),
        (
            lambda prefix: (prefix / "lib/libpython.so").unlink(),
            RuntimeUnusable,
            "missing or changed: lib/libpython.so",
        ),
    ],
)
def test_damage_is_noticed(
    prefix: Path,
    damage: Callable[[Path], object],
    error: type[Exception],
    expected: str,
) -> None:
    damage(prefix)
    with pytest.raises(error, match=expected):
        ManagedRuntime(prefix).check()


def test_another_versions_runtime_is_stale(prefix: Path) -> None:
    manifest = Manifest.read(prefix)
    assert manifest is not None
    replace(manifest, digest="other").write(prefix)
    with pytest.raises(RuntimeStale, match=r"another version.* --prefix '"):
        ManagedRuntime(prefix).check()


def test_hermes_triton_comes_first(prefix: Path) -> None:
    environ = {"HERMES_TRITON": str(prefix), "PATH": str(prefix / "bin")}
    assert find_runtime(environ) == ManagedRuntime(prefix)
    environ["HERMES_TRITON"] = str(prefix / "bin" / "tritonserver")
    assert find_runtime(environ) == ManagedRuntime(prefix)


def test_half_a_runtime_is_still_ours(prefix: Path) -> None:
    environ = {"HERMES_TRITON": str(prefix)}
    (prefix / MANIFEST).unlink()
    assert find_runtime(environ) == ManagedRuntime(prefix)


def test_a_tritonserver_of_others_is_used_as_it_is(tmp_path: Path) -> None:
    executable = tmp_path / "opt" / "bin" / "tritonserver"
    executable.parent.mkdir(parents=True)
    executable.touch(0o755)
    for place in (executable, executable.parent.parent):
        found = find_runtime({"HERMES_TRITON": str(place)})
        assert found == SystemRuntime(executable)
    found = find_runtime({"PATH": str(executable.parent)})
    assert str(found) == f"{executable}, used as it is"
    backends = tmp_path / "opt" / "backends"
    request = Request((str(tmp_path),), {"PYTHONPATH": "/mine"})
    with found.launch(request) as launch:
        assert launch.backend_directory is None
    backends.mkdir()
    with found.launch(request) as launch:
        assert launch.backend_directory == str(backends)
        assert launch.argv == (str(executable),)
        assert launch.repositories == (str(tmp_path),)
        assert launch.env == {"PYTHONPATH": "/mine"}


def test_hermes_triton_that_points_nowhere_is_named(tmp_path: Path) -> None:
    environ = {"HERMES_TRITON": str(tmp_path / "gone")}
    with pytest.raises(RuntimeMissing, match=r"gone, which does not exist"):
        find_runtime(environ)


def test_hermes_triton_that_points_elsewhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnusable, match="neither a tritonserver nor"):
        find_runtime({"HERMES_TRITON": str(tmp_path)})


def test_the_managed_runtime_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "tritonserver"
    monkeypatch.setattr(_find, "_SYSTEM", system)
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with pytest.raises(RuntimeMissing, match="serve install`"):
        find_runtime(environ)
    prefix = make_runtime(managed_prefix(environ))
    assert find_runtime(environ) == ManagedRuntime(prefix)
    system.touch(0o755)
    assert find_runtime(environ) == SystemRuntime(system)


def test_the_prefix_names_what_is_in_it(tmp_path: Path) -> None:
    found = default_prefix({"HOME": "/home/me"}, "3.12")
    assert str(found.parent) == "/home/me/.cache/hermes/triton"
    assert found.name == f"2.51.0-py3.12-{digest()}"
    cache = {"XDG_CACHE_HOME": str(tmp_path), "HOME": "/x"}
    assert default_prefix(cache, "3.12").is_relative_to(tmp_path)
    relative = {"XDG_CACHE_HOME": "cache", "HOME": "/home/me"}
    assert default_prefix(relative, "3.12") == found


def test_hermes_triton_is_where_install_installs() -> None:
    environ = {"HERMES_TRITON": "/scratch/triton"}
    assert managed_prefix(environ) == Path("/scratch/triton")


def test_the_command_can_be_pasted() -> None:
    assert install_command() == "python -m hermes.aeriel.serve install"
    assert install_command(Path("/a b")).endswith("--prefix '/a b'")


@pytest.fixture
def network(tmp_path: Path) -> Request:
    """What to serve: a TorchScript module."""
    folder = tmp_path / "models" / "network"
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text('platform: "pytorch_libtorch"')
    return Request((str(folder.parent), "gs://bucket"))


def give_torch(prefix: Path) -> None:
    manifest = Manifest.read(prefix)
    assert manifest is not None
    (prefix / "torch").write_text("torch")
    replace(manifest, extras=["torch"], extra_files={"torch": 5}).write(prefix)


def test_a_model_that_the_runtime_cannot_serve_is_named(
    prefix: Path, network: Request
) -> None:
    told = (
        "model 'network' is pytorch_libtorch, and the Triton runtime in .* "
        r"has no torch; run `.* --prefix '.*run time' --with torch`"
    )
    runtime = ManagedRuntime(prefix)
    with pytest.raises(BackendMissing, match=told), runtime.launch(network):
        pass
    give_torch(prefix)
    with runtime.launch(network) as launch:
        assert launch.repositories == network.repositories


def test_a_model_that_is_not_loaded_needs_nothing(
    prefix: Path, network: Request
) -> None:
    with ManagedRuntime(prefix).launch(replace(network, loads_all=False)):
        pass


def test_damage_of_an_extra_matters_to_those_who_use_it(
    prefix: Path, network: Request, tmp_path: Path
) -> None:
    give_torch(prefix)
    (prefix / "torch").unlink()
    runtime = ManagedRuntime(prefix)
    (tmp_path / "others").mkdir()
    with runtime.launch(Request((str(tmp_path / "others"),))):
        pass
    told = "missing or changed: torch"
    with (
        pytest.raises(RuntimeUnusable, match=told),
        runtime.launch(network),
    ):
        pass
    with pytest.raises(RuntimeUnusable, match=told):
        runtime.check()


def test_pins_are_exact() -> None:
    files = [*SOURCES.glob("pins*.txt")]
    assert len(files) == 3
    lines = "\n".join(file.read_text() for file in files).splitlines()
    pins = [line for line in lines if line[:1] not in ("", "#")]
    assert all("==" in pin for pin in pins)


def test_names_that_a_shell_would_read_are_replaced(
    prefix: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "$(models)"
    (repository / "net").mkdir(parents=True)
    request = Request((str(repository), "gs://b"), {"PATH": "/x"}, {"A": "1"})
    with ManagedRuntime(prefix).launch(request) as launch:
        first, second = launch.pass_fds
        assert launch.repositories == (f"/proc/self/fd/{first}", "gs://b")
        assert Path(launch.repositories[0]).samefile(repository)
        assert launch.backend_directory == f"/proc/self/fd/{second}"
        assert launch.env["A"] == "1"
        assert launch.env["PATH"] == f"{prefix}/venv/bin:/x"
        assert launch.env["LD_LIBRARY_PATH"] == f"{prefix}/lib"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)


def test_a_models_name_that_a_shell_would_read_is_refused(
    prefix: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    (repository / "a b").mkdir(parents=True)
    runtime = ManagedRuntime(prefix)
    with (
        pytest.raises(
            RepositoryUnusable, match=r"model 'a b' .* names of let"
        ),
        runtime.launch(Request((str(repository),))),
    ):
        pass
