"""Values in commands and paths: never read as code, and never said."""

from __future__ import annotations

import subprocess
from collections import deque

import pytest

from hermes.cloudbreak._remote import Host, guard
from hermes.cloudbreak._values import (
    check_places,
    fill_command,
    fill_path,
    per_host,
)
from hermes.cloudbreak.errors import InvalidSpec

ODD = ["a b", "$HOME", "`id`", "$(id)", "'; id '", '"; id "', "\\\\n", "*", ""]


def run(command: str) -> str:
    return subprocess.run(
        ["/bin/sh", "-c", command],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(
    "template",
    [
        "printf %s {n}",
        "printf %s `printf %s {n}`",
        "printf %s $(printf %s {n})",
        'x={n}; printf %s "$x" # it\'s {',
        "# it's\nprintf %s {n}",
        "cat <<E\nit's\nE\nprintf %s {n}",
        "cat <<-'E F' <<E\n\tE F\nE\nprintf %s {n}",
        "printf %s ''{n}",
        "echo a#\\'; printf %s {n}",
    ],
)
def test_a_value_is_what_it_is_wherever_it_may_stand(
    template: str, value: str
) -> None:
    found = run(fill_command(template, {"n": value}))
    if "`" in template or "$(" in template:
        # what such a command gives is split again, as always
        assert "uid=" not in found
    else:
        assert found.endswith(value)
        assert "uid=" not in found


def test_simple_values_may_be_reckoned_with() -> None:
    assert run(fill_command("echo $(({n} + 1))", {"n": "41"})) == "42\n"


@pytest.mark.parametrize(
    ("template", "where"),
    [
        ("echo '{n}'", "between quotes"),
        ('echo "a \\" {n}"', "between quotes"),
        ('echo "$(echo {n})"', "between quotes"),
        ("echo \\{n}", "between quotes"),
        ("# it's\necho '{n}'", "between quotes"),
        ("cat <<E\n{n}\nE", "in a here-document"),
        ("cat <<'E' | sh\nE \n{n}\nE", "in a here-document"),
        ("cat <<A <<-B\nA\n\tA\n{n}\n\tB\n", "in a here-document"),
        ("echo # {n}", "in a comment"),
    ],
)
def test_where_a_value_would_be_another_it_is_refused(
    template: str, where: str
) -> None:
    for value in ("3", "s3cret word"):
        with pytest.raises(InvalidSpec, match=where) as refused:
            fill_command(template, {"n": value})
        assert value not in str(refused.value)


def test_values_may_be_of_any_kind_of_list() -> None:
    wanted = [{"n": "0"}, {"n": "1"}]
    for values in ([0, 1], (0, 1), range(2), deque([0, 1]), ["0", "1"]):
        assert per_host({"n": values}, 2) == wanted


def test_paths_take_values_as_they_are() -> None:
    assert fill_path("a/{n}/{m}'", {"n": "b c"}) == "a/b c/{m}'"


def test_values_that_do_not_fit_are_refused_and_not_said() -> None:
    strange = ({"s3cret", "b"}, {"s3cret": 1, "b": 2}, iter(["s3cret", "b"]))
    for values in (["s3cret"], "s3", b"s3", 2, *strange):
        with pytest.raises(InvalidSpec, match="a list of 2 values") as refused:
            per_host({"n": values}, 2)
        assert "s3cret" not in str(refused.value)
    with pytest.raises(InvalidSpec, match="has NUL in it") as refused:
        per_host({"n": ["s3cret\0", ""]}, 2)
    assert "s3cret" not in str(refused.value)
    with pytest.raises(InvalidSpec, match="no place for n: write"):
        check_places(["TOKEN=s3cret echo {m}"], ["n", "m"])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("s3cret\0", "no program can be told of"),
        ("s3cret\ud800", "no program can be told of"),
        ("s3cret" * 30_000, "has 180000 characters"),
    ],
)
def test_commands_that_no_machine_can_run_are_refused(
    command: str, message: str
) -> None:
    with pytest.raises(InvalidSpec, match=message) as refused:
        guard(command)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": ()}, "give its public host keys"),
        ({"keys": ("ssh-rsa",)}, "give its public host keys"),
        ({"name": "a/b"}, "give a name for a folder"),
        ({"name": ".."}, "give a name for a folder"),
        ({"address": ""}, "give an address"),
        ({"port": 0}, "give a port from 1 to 65535"),
        ({"port": "22"}, "give a port from 1 to 65535"),
    ],
)
def test_machines_that_nobody_could_reach_are_refused(
    options: dict, message: str
) -> None:
    given = {"name": "vm", "address": "::1", "keys": ("ssh-rsa AAAA",)}
    with pytest.raises(InvalidSpec, match=message):
        Host(**given | options)
