"""Without its extras quiver says which one is missing."""

import subprocess
import sys
import textwrap

import pytest

HIDE = """
import sys
from importlib.machinery import PathFinder
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] != sys.argv[1]:
            return super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""


def run_without(package: str, code: str) -> str:
    script = HIDE + textwrap.dedent(code)
    result = subprocess.run(
        [sys.executable, "-c", script, package],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("package", "extra"), [("onnxscript", "torch"), ("onnxruntime", "verify")]
)
def test_the_missing_extra_is_named(tmp_path, package, extra) -> None:
    output = run_without(
        package,
        f"""
        import torch
        from hermes.quiver import ModelRepository, Platform
        model = ModelRepository({str(tmp_path)!r}).add("m", Platform.ONNX)
        try:
            model.export_version(
                torch.nn.Linear(2, 2), input_shapes=[(None, 2)], verify=True
            )
        except ImportError as error:
            print(type(error).__name__, error)
        """,
    )
    assert output == (
        f"MissingExtra {package} is not installed; it comes with"
        f" hermes-quiver's extra {extra!r}\n"
    )


def test_without_the_extra_verify_exports_go_unchecked(tmp_path) -> None:
    output = run_without(
        "onnxruntime",
        f"""
        import torch
        from hermes.quiver import ModelRepository, Platform
        model = ModelRepository({str(tmp_path)!r}).add("m", Platform.ONNX)
        model.export_version(torch.nn.Linear(2, 2), input_shapes=[(None, 2)])
        print(model.versions)
        """,
    )
    assert output.endswith("[1]\n")


def test_a_missing_framework_is_named() -> None:
    output = run_without(
        "tensorflow",
        """
        from hermes.quiver._extras import load
        try:
            load("hermes.quiver.exporters.tensorflow")
        except ImportError as error:
            print(type(error).__name__, error)
        """,
    )
    assert output == (
        "MissingExtra tensorflow is not installed; it comes with"
        " hermes-quiver's extra 'tensorflow'\n"
    )
