"""Pure: what TensorFlow's and Keras' errors say, in one line."""

from __future__ import annotations

import re
from pathlib import PurePath

__all__ = ("reason",)

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_PLACE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in .*')
_INSIDE = ("site-packages", "hermes/quiver/exporters")


def reason(error: Exception) -> str:
    """The last thing that an error says, and where in the user's code.

    A traceback of Autograph's, which is text of the error, is left out, and
    so are the arguments of each call.
    """
    # as text, a KeyError's is quoted, with its escapes spelt out
    is_quoted = isinstance(error, KeyError) and error.args
    said = error.args[0] if is_quoted else error
    text = _COLOUR.sub("", str(said)).split("Arguments received by")[0]
    lines = text.splitlines()
    places = [i for i, line in enumerate(lines) if _PLACE.search(line)]
    told = lines[places[-1] + 2 :] if places else lines
    line = " ".join(" ".join(told).split()) or type(error).__name__
    return f"{line}{_where(text)}"


def _where(text: str) -> str:
    own = [
        place
        for place in _PLACE.finditer(text)
        if not any(part in place["file"] for part in _INSIDE)
    ]
    if not own:
        return ""
    name = PurePath(own[-1]["file"]).name
    return f" ({name}, line {own[-1]['line']})"
