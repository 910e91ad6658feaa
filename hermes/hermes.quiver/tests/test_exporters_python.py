"""Python models: a file is copied whole, if Triton could load it."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from hermes.quiver import Platform
from hermes.quiver.errors import InvalidInput, UnsupportedExport

SOURCE = """
import numpy as np

class TritonPythonModel:
    def execute(self, requests):
        return [np.zeros(1) for _ in requests]
"""


@pytest.fixture
def model(repository):
    return repository.add("thresholds", Platform.PYTHON)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file of that name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))

    def write(source: str, name: str = "thresholds.py") -> Path:
        path = tmp_path / name
        path.write_text(source)
        return path

    return write


def declare(model) -> None:
    model.config.add_input("x", (None, 2))
    model.config.add_output("y", (None,), "int64")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_is_copied_as_it_is(model, write, kind) -> None:
    declare(model)
    path = model.export_version(kind(write(SOURCE)))
    assert path.endswith("thresholds/1/model.py")
    assert Path(path).read_text() == SOURCE
    model.repository.refresh()
    found = model.repository.models["thresholds"]
    assert found.platform is Platform.PYTHON
    assert found.outputs["y"].shape == (None,)
    assert found.read_version() == SOURCE.encode()


def test_a_class_brings_its_file_and_may_have_any_name(model, write) -> None:
    declare(model)
    write(SOURCE.replace("TritonPythonModel", "Thresholds"))
    network = import_module("thresholds").Thresholds
    path = Path(model.export_version(network))
    namespace: dict = {}
    exec(path.read_text(), namespace)  # noqa: S102  # written above
    assert namespace["TritonPythonModel"] is namespace["Thresholds"]


def test_tensors_must_be_declared_unless_the_model_does(model, write) -> None:
    with pytest.raises(InvalidInput, match=r"config\.add_input\('x', \(None"):
        model.export_version(write(SOURCE))
    completes = "\n    def auto_complete_config(config): pass\n"
    model.export_version(write(SOURCE + completes))
    assert model.versions == [1]


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("class Model: pass", "has no class TritonPythonModel"),
        ("class Model(:", "cannot be read as Python"),
        ("from . import x\n" + SOURCE, r"py:1 imports from beside it"),
    ],
)
def test_files_that_triton_could_not_load_are_refused(
    model, write, source, match
) -> None:
    declare(model)
    with pytest.raises(InvalidInput, match=match):
        model.export_version(write(source))
    assert model.versions == []


def test_an_alias_is_a_class_too(model, write) -> None:
    declare(model)
    model.export_version(write("class M: pass\nTritonPythonModel = M\n"))
    model.export_version(write("from mine import M as TritonPythonModel\n"))
    assert model.versions == [1, 2]


def test_what_only_an_exporter_could_do_is_refused(model, write) -> None:
    with pytest.raises(InvalidInput, match="input_shapes cannot be used"):
        model.export_version(write(SOURCE), input_shapes=[(None, 2)])


def test_classes_without_a_file_of_their_own_are_refused(model) -> None:
    class Inner:
        pass

    program = type("Program", (), {"__module__": "__main__"})
    program.__qualname__ = "Program"
    declare(model)
    with pytest.raises(InvalidInput, match="is inside of something; move it"):
        model.export_version(Inner)
    with pytest.raises(InvalidInput, match="which the server would run; move"):
        model.export_version(program)
    with pytest.raises(InvalidInput, match="int has no file; move it"):
        model.export_version(int)


def test_a_class_is_no_network(repository) -> None:
    class Network:
        pass

    with pytest.raises(UnsupportedExport, match=r"Network \(meant was .*\?\)"):
        repository.add("network", Platform.ONNX).export_version(Network)
