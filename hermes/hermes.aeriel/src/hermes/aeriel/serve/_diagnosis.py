"""Pure: why a server did not come up, from its exit code and its log."""

import re
import signal

__all__ = (
    "describe_death",
    "describe_delay",
    "has_answered_all",
    "has_given_up",
    "lost_port",
    "stub_failure",
    "tail",
)

# A stub that cannot start leaves the server waiting for ever, with nothing
# but the loader's or the shell's own line in the log.
_STUB_FAILURE = re.compile(
    r"^(?:\S*triton_python_backend_stub: error while loading shared .*"
    r"|bash: -c: line \d+: .*"
    r"|bash: .*triton_python_backend_stub: .*"
    r"|.*Fatal Python error: .*)$",
    re.MULTILINE,
)

_STATUS = "`python -m hermes.aeriel.serve status` says what is missing"
_IMAGE = (
    "the image must hold bash and tritonserver, as NVIDIA's does "
    "(`hermes-serve pull`)"
)
_PORT = (
    r"Address already in use|failed to start \w+ service|"
    r"Socket '[^']*' already in use"
)
_HINTS = {
    _PORT: "another program took one of the ports; use free_ports=True",
    r"error while loading shared libraries|GLIBC\w*_\S+' not found": _STATUS,
    r"Fatal Python error": _STATUS,
    r"unable to find backend library": (
        "this Triton has no backend for the model's platform"
    ),
    r"No module named": (
        "the Python that runs the backend lacks a package; a Python model "
        "also finds those beside model.py"
    ),
    r"No space left on device|shared memory .*fail": "is /dev/shm full?",
    r"unrecognized option|invalid argument|Bad option": (
        "see server_args for an option that this Triton does not know"
    ),
    # of pinned memory and of ensembles it is said at every start without a GPU
    r"(?m:^(?!.*(pinned system memory|unable to create stream for)).*"
    r"CUDA driver version is insufficient)"
    r"|driver .*(too old|not supported)|forward compatibility was attempted": (
        "the GPU's driver is too old for this Triton; use an older image, or "
        "gpus=[] to serve without a GPU"
    ),
    r"no CUDA-capable device|Unable to (initialize|get) .*(NVML|DCGM)": (
        "the server found no GPU; see gpus= and `nvidia-smi`"
    ),
    r"engine plan file is (generated on an incompatible device|not compatible)"
    r"|Version tag does not match|different TensorRT version"
    r"|no kernel image is available": (
        "a plan runs only on the kind of GPU, and with the TensorRT, that it "
        "was built with; export it again there"
    ),
    r"[Ee]xec format error|cannot execute binary file"
    r"|image targets '.*', cannot run on": (
        "this image or program is for another kind of machine"
    ),
    r"tritonserver: command not found|executable file not found": _IMAGE,
    r"bad superblock|image format not recognized": (
        "the image is damaged; copy or pull it again"
    ),
    r"user namespace|must be (owned by root|setuid)": (
        "this machine does not let you start containers; ask who runs it"
    ),
}
_LOST = re.compile(_PORT)

# What Triton calls the reasons. A line break in the first is written as \n,
# and after it follow Python's frames.
_MODEL = r"failed to load '(?P<model>[^']*)' version \S+ (?P<why>.*)"
_PLAIN = (
    r"failed to load model .*",
    r"failed to start \w+ service: .*",
    r"Poll failed for model directory .*",
    r"Error parsing text-format .*",
    r"(?<=tritonserver: )\w+ option.*",
    r"Bad option: .*",
    r"Invalid option value.*",
    r"error: creating server: .*",
    r"FATAL:  .*",
    r"(?<=: )tritonserver: command not found",
)
_REASONS = re.compile(f"{_MODEL}|(?P<plain>{'|'.join(_PLAIN)})")
# What Triton says while it stops. Where it gives up it says that it exits at
# once, and may take many seconds for that.
_ANSWERED = "All models are stopped, unloading models"
_GIVEN_UP = "Exit timeout expired"
_NOTHING_ELSE = "error: creating server: Internal - failed to load all models"


def describe_death(server: str, code: int | None, log: str) -> str:
    """Return what to tell the user of a server that will not serve.

    Args:
        server: What the server is called in messages.
        code: Its exit code; None if it runs, but cannot become ready.
        log: Its whole log.
    """
    failure = stub_failure(log) if code is None else None
    lines = [
        f"{server} {_ending(code)}",
        *([f"its Python backend did not start: {failure}"] if failure else []),
        *_reasons(log),
        *[
            f"hint: {hint}"
            for pattern, hint in _HINTS.items()
            if re.search(pattern, log)
        ],
        f"the end of its log:\n{tail(log)}",
    ]
    return "\n".join(dict.fromkeys(lines))


def lost_port(log: str) -> bool:
    """Whether a server ended because somebody else had one of its ports."""
    return bool(_LOST.search(log))


def has_answered_all(log: str) -> bool:
    """Whether a server that stops has no request or sequence left."""
    return _ANSWERED in log


def has_given_up(log: str) -> bool:
    """Whether a server that stops waits for nothing any more."""
    return _GIVEN_UP in log


def describe_delay(server: str, seconds: float, log: str) -> str:
    """Return what to tell the user of a server that is not ready in time.

    Args:
        server: What the server is called in messages.
        seconds: How long it was waited for.
        log: Its whole log.
    """
    lines = [
        f"{server} was not ready within {seconds:g} s",
        *_reasons(log),
        f"the end of its log:\n{tail(log)}",
    ]
    return "\n".join(dict.fromkeys(lines))


def stub_failure(log: str) -> str | None:
    """Return the line of a Python stub that could not start, if any."""
    match = _STUB_FAILURE.search(log)
    return match[0].strip() if match else None


def tail(log: str, lines: int = 20, width: int = 300) -> str:
    """Return the last lines of a log, without tables and help texts."""
    told = [
        line[:width]
        for line in log.splitlines()
        if line and not line.startswith(("|", "+-", "\t", "  --", "Usage: "))
    ]
    return "\n".join(told[-lines:])


def _ending(code: int | None) -> str:
    if code is None:
        return "cannot become ready"
    if code > 128:
        try:
            name = signal.Signals(code - 128).name
        except ValueError:
            name = f"signal {code - 128}"
        return f"was ended by {name}"
    return f"ended with exit code {code}"


def _reasons(log: str) -> list[str]:
    found = []
    for match in _REASONS.finditer(log):
        if match["model"]:
            why = match["why"].partition(r"\n")[0].strip(' "')
            found.append(f"model '{match['model']}' failed to load: {why}")
        else:
            found.append(match["plain"].strip(' "'))
    return [reason for reason in found if reason != _NOTHING_ELSE]
