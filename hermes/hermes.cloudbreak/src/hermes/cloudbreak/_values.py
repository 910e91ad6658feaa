"""Pure: the values of each machine, put into commands and paths.

In a command a place becomes a reference to a variable of its shell, and never
the value itself: whatever stands around it, no shell reads a value as code.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence, Sized

from hermes.cloudbreak.errors import InvalidSpec

__all__ = ("check_places", "fill_command", "fill_path", "per_host")

_PLACE = re.compile(r"(?<!\$)\{([A-Za-z_]\w*)\}")
# Is itself wherever it stands, also where there are no strings: $(({n} + 1)).
_PLAIN = re.compile(r"[0-9A-Za-z._-]+")
_TOKEN = re.compile(
    r"""\\.
    | '[^']*' | "(?:\\.|[^"\\])*"
    | (?P<comment>(?<![^\s;&|()])\#[^\n]*)
    | <<<
    | <<(?P<tabs>-?)[ \t]*(?P<word>(?:'[^']*'|"[^"]*"|[^\s;&|<>()'"])+)
    | (?P<open>['"\\])
    | .""",
    re.DOTALL | re.VERBOSE,
)


def per_host(
    values: Mapping[str, Sequence[object]], num_hosts: int
) -> list[dict[str, str]]:
    """Turn values for each host into what each host gets.

    Raises:
        InvalidSpec: If there is not one value for each host, or one that no
            program can be told of. It does not say it: it may be a secret.
    """
    for name, each in values.items():
        if (size := _count(each)) != num_hosts:
            of = "" if size is None else f" of {size}"
            raise InvalidSpec(
                f"{name} is a {type(each).__name__}{of}: give a list of "
                f"{num_hosts} values, one for each machine, in their order"
            )
        if any("\0" in str(value) for value in each):
            raise InvalidSpec(
                f"a value of {name} has NUL in it, which no program can be "
                "told of: leave it out, or put it into a file"
            )
    return [
        {name: str(each[index]) for name, each in values.items()}
        for index in range(num_hosts)
    ]


def _count(values: object) -> int | None:
    """Count what is in a list, of whatever kind; None where it is none."""
    if isinstance(values, str | bytes | Mapping):
        return None
    if isinstance(values, Sized) and hasattr(values, "__getitem__"):
        return len(values)
    return None


def fill_path(template: str, values: Mapping[str, str]) -> str:
    """Put values where their ``{names}`` stand; other braces stay."""
    return _PLACE.sub(lambda place: values.get(place[1], place[0]), template)


def fill_command(template: str, values: Mapping[str, str]) -> str:
    """Put values where their ``{names}`` stand; other braces stay.

    Raises:
        InvalidSpec: If one stands where it would not be what it is.
    """
    used: dict[str, str] = {}

    def put(place: re.Match[str]) -> str:
        name = place[1]
        if name not in values:
            return place[0]
        if where := _find_trouble(template[: place.start()]):
            raise InvalidSpec(
                f"{place[0]} stands {where} in the command: take it out of "
                "there; values are quoted as they are put in"
            )
        if _PLAIN.fullmatch(values[name]):
            return values[name]
        used[f"hermes_{name}"] = values[name]
        return f'"${{hermes_{name}}}"'

    command = _PLACE.sub(put, template)
    known = (f"{name}={shlex.quote(used[name])}; " for name in used)
    return "".join((*known, command))


def check_places(templates: Sequence[str], names: Sequence[str]) -> None:
    """Refuse values without a place.

    Raises:
        InvalidSpec: If one has no place in any of some templates.
    """
    found = {each[1] for text in templates for each in _PLACE.finditer(text)}
    if missing := sorted(set(names) - found):
        raise InvalidSpec(
            f"no place for {', '.join(missing)}: write {{{missing[0]}}} where "
            "it goes"
        )


def _find_trouble(text: str) -> str:
    """Tell inside of what a command goes on; "" if of nothing."""
    documents: list[tuple[str, str]] = []
    position = 0
    while token := _TOKEN.match(text, position):
        position = token.end()
        if token["open"]:
            return "between quotes"
        if token["comment"] and position == len(text):
            return "in a comment"
        if token["word"]:
            ending = re.sub(r"""['"\\]""", "", token["word"])
            documents.append((token["tabs"], ending))
        elif token[0] == "\n":
            while documents:
                found = _find_ending(*documents.pop(0), text, position)
                if found is None:
                    return "in a here-document"
                position = found
    return ""


def _find_ending(tabs: str, word: str, text: str, position: int) -> int | None:
    """Tell where a here-document has ended, if it has."""
    indent = "\t*" if tabs else ""
    form = re.compile(rf"^{indent}{re.escape(word)}\n", re.MULTILINE)
    found = form.search(text, position)
    return found.end() if found else None
