"""What torch reports in hundreds of lines, in one."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

__all__ = ("explain",)

_LONGEST = 300
# Where the user's network is not.
_OTHERS = [
    Path(folder).resolve()
    for name in ("torch", "onnxscript", "onnx_ir", __package__)
    if (spec := find_spec(name)) is not None
    for folder in spec.submodule_search_locations or ()
]
_STDLIB, _SITE = (
    Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib")
)
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (\S+)')
_DATA_DEPENDENT = "GuardOnDataDependentSymNode"


def explain(error: BaseException, cure: str) -> str:
    """Why torch cannot, where in the network, and what one can do.

    Args:
        error: What torch raised.
        cure: What one can do, unless it is clearly something else.
    """
    chain = list(_chain(error))
    kinds = {type(e).__name__ for e in chain}
    if _DATA_DEPENDENT in kinds:
        reason = "it decides on values that are known only when it runs"
        cure = (
            "torch.where chooses without deciding, and Platform.TORCHSCRIPT"
            " with method='script' keeps decisions"
        )
    else:
        reason = _reason(chain[-1])
    return f"{reason}{_place(chain)}; {cure}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        context = None if seen.__suppress_context__ else seen.__context__
        seen = seen.__cause__ or context


def _reason(error: BaseException) -> str:
    """The first line; where that announces a list, its first entry too."""
    lines = [line.strip() for line in str(error).splitlines()]
    first = next(filter(None, lines), type(error).__name__)
    detail = next((line[1:] for line in lines if line.startswith("- ")), "")
    text = f"{first}{detail}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _place(chain: list[BaseException]) -> str:
    for error in reversed(chain):
        frames = list(_frames(error.__traceback__))
        for file, line, function in reversed(frames):
            if _is_users(file):
                code = linecache.getline(file, line).strip()
                return f" (at {file}:{line}, in {function}: {code})"
    return ""


def _frames(trace: TracebackType | None) -> Iterator[tuple[str, int, str]]:
    for frame, line in traceback.walk_tb(trace):
        code = frame.f_code
        yield code.co_filename, line, code.co_name
        # A node of torch's graph knows where in the network it comes from.
        origin = getattr(frame.f_locals.get("node"), "stack_trace", None)
        for match in _FRAME.finditer(origin or ""):
            yield match["file"], int(match["line"]), match[3]


def _is_users(file: str) -> bool:
    path = Path(file).resolve()
    if not path.is_file() or any(map(path.is_relative_to, _OTHERS)):
        return False
    return path.is_relative_to(_SITE) or not path.is_relative_to(_STDLIB)
