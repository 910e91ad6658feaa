"""What holds for the four libraries together, and for the workspace."""

import importlib
import json
import pkgutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = ("aeriel", "cloudbreak", "quiver", "stillwater")
FRAMEWORKS = {"keras", "onnxruntime", "tensorflow", "tensorrt", "torch"}

# Runs in an interpreter of its own. Audit hooks see sockets and threads from
# C too, also those that are gone when the import is done.
OBSERVE_IMPORT = """
import json, logging, sys, threading

events = []
sys.addaudithook(lambda event, _: events.append(event))
importing = sys.argv[1]
__import__(importing)
print(json.dumps({
    "name": importing,
    "file": sys.modules[importing].__file__,
    "modules": sorted(name.partition(".")[0] for name in sys.modules),
    "events": sorted({e for e in events if e.startswith("socket.")
                      or e in ("_thread.start_new_thread", "subprocess.Popen",
                               "os.fork", "os.posix_spawn")}),
    "threads": [thread.name for thread in threading.enumerate()],
    "handlers": [repr(handler) for handler in logging.root.handlers],
    "levels": {name: logger.level
               for name, logger in logging.root.manager.loggerDict.items()
               if name.startswith("hermes")
               and isinstance(logger, logging.Logger)},
}))
"""


def source(library):
    return ROOT / "hermes" / f"hermes.{library}" / "src"


def public_modules():
    for library in LIBRARIES:
        package = f"hermes.{library}"
        folder = source(library) / "hermes" / library
        yield package
        for module in pkgutil.walk_packages([str(folder)], f"{package}."):
            if not any(p.startswith("_") for p in module.name.split(".")):
                yield module.name


def public_packages():
    return [
        n for n in public_modules() if find_spec(n).submodule_search_locations
    ]


@pytest.fixture(params=LIBRARIES)
def library(request):
    return request.param


@pytest.fixture(scope="module", params=public_packages())
def observed(request):
    run = subprocess.run(
        [sys.executable, "-c", OBSERVE_IMPORT, request.param],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""
    return json.loads(run.stdout)


def test_no_library_claims_the_namespace(library):
    assert not (source(library) / "hermes" / "__init__.py").exists()
    assert (source(library) / "hermes" / library / "py.typed").exists()


def test_each_package_comes_from_its_own_source(observed):
    library = observed["name"].split(".")[1]
    assert Path(observed["file"]).is_relative_to(source(library))


def test_import_loads_no_framework(observed):
    assert not FRAMEWORKS.intersection(observed["modules"])


def test_import_starts_and_opens_nothing(observed):
    assert observed["events"] == []
    assert observed["threads"] == ["MainThread"]


def test_import_configures_no_logging(observed):
    assert observed["handlers"] == []
    assert not any(observed["levels"].values())


@pytest.mark.parametrize("name", sorted(public_modules()))
def test_all_is_a_sorted_tuple_of_what_is_there(name):
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", ())
    assert isinstance(exported, tuple)
    assert list(exported) == sorted(set(exported))
    assert [n for n in exported if not hasattr(module, n)] == []
    here = {
        n
        for n, value in vars(module).items()
        if getattr(value, "__module__", None) == name and n[0] != "_"
    }
    assert here - set(exported) == set()


def test_paths_are_in_the_root_only(library):
    member = source(library).parent / "pyproject.toml"
    assert "path =" not in member.read_text()
    assert "file:" not in member.read_text()


def test_the_lock_names_no_place_but_the_libraries():
    lock = tomllib.loads((ROOT / "poetry.lock").read_text())
    places = {p["source"]["url"] for p in lock["package"] if "source" in p}
    assert places == {f"hermes/hermes.{library}" for library in LIBRARIES}
    files = [f for p in lock["package"] for f in p["files"]]
    assert not [f for f in files if "url" in f]


def test_no_cuda_library_is_locked_twice():
    """Poetry would install one version over the other, every time."""
    lock = tomllib.loads((ROOT / "poetry.lock").read_text())
    names = [p["name"] for p in lock["package"]]
    cuda = [name for name in names if name.startswith("nvidia-")]
    assert sorted(cuda) == sorted(set(cuda))
