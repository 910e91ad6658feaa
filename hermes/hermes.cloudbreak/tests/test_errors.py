"""The tree of errors."""

import inspect

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
