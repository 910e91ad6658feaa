"""The tree of errors."""

import inspect
import pickle

from hermes.cloudbreak import errors


def tree(kind: type, indent: str = "") -> list[str]:
    lines = []
    children = sorted(
        (k for k in kind.__subclasses__()), key=lambda k: k.__name__
    )
    for number, child in enumerate(children):
        last = number == len(children) - 1
        lines.append(f"{indent}{'└── ' if last else '├── '}{child.__name__}")
        lines += tree(child, indent + ("    " if last else "│   "))
    return lines


def test_the_tree_at_the_top_of_the_file_is_the_tree() -> None:
    drawn = [
        line[4:].split("(")[0].rstrip()
        for line in inspect.getdoc(errors).splitlines()
        if "── " in line
    ]
    assert drawn == tree(errors.CloudbreakError)


def test_every_error_is_public() -> None:
    kinds = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert kinds == set(errors.__all__)


def test_who_failed_survives_the_way_from_another_process() -> None:
    error = errors.ReplicasFailed("1 of 2 servers", {"triton-1": "gone"})
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert str(copy) == "1 of 2 servers"
    assert copy.failed == {"triton-1": "gone"}
