"""The trees of errors are what the files that draw them say."""

import importlib
import inspect
import re

import pytest

LIBRARIES = ("aeriel", "cloudbreak", "quiver", "stillwater")
ROW = re.compile(
    r"(?P<indent>[ │]*)[├└]── (?P<name>\w+)( +\((?P<base>\w+)\))?"
)


@pytest.fixture(params=LIBRARIES)
def errors(request):
    return importlib.import_module(f"hermes.{request.param}.errors")


def drawn(text):
    """Read a drawing: for each name its parent, and what else it is."""
    top, *lines = [line for line in text.splitlines() if line.startswith("  ")]
    path, tree = [top.strip()], {top.strip(): ("Exception", None)}
    for line in lines:
        row = ROW.fullmatch(line)
        depth = len(row["indent"]) // 4
        path[depth:] = [row["name"]]
        tree[row["name"]] = (path[depth - 1], row["base"])
    return tree


def defined(errors):
    tree = {}
    for name in errors.__all__:
        parent, *others = getattr(errors, name).__bases__
        base = others[0].__name__ if others else None
        tree[name] = (parent.__name__, base)
    return tree


def test_the_drawing_is_the_tree(errors) -> None:
    assert drawn(errors.__doc__) == defined(errors)


def test_every_error_is_public(errors) -> None:
    kinds = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert kinds == set(errors.__all__)
