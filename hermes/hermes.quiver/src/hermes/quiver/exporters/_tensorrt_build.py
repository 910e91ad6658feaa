"""Build a TensorRT engine from files, wherever a Python has TensorRT.

``python build.py DIRECTORY``. It is copied into containers and to other
nodes, and so needs TensorRT and the standard library only. The directory has
``model.onnx``, ``request.json`` and perhaps ``timing.cache``; afterwards it
has ``result.json``, which says what was built or what went wrong, and
``model.plan`` if all went well.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

__all__ = ("main",)

_LOG_LINES = 5
# CUDA's numbers of a device's compute capability.
_MAJOR, _MINOR = 75, 76


class _Failure(Exception):
    """What the other side is told; ``kind`` chooses its error."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def main(directory: Path) -> None:
    """Build what the directory asks for.

    Args:
        directory: Where the files are.
    """
    request = json.loads((directory / "request.json").read_text())
    _limit(directory, request["timeout"])
    log: list[str] = []
    try:
        result = {"plan": _build(directory, request, log)}
    except _Failure as failure:
        result = {"error": {"kind": failure.kind, "message": str(failure)}}
    except Exception as error:  # noqa: BLE001  # TensorRT raises what it likes
        said = str(error).strip() or type(error).__name__
        result = {"error": {"kind": "failed", "message": said}}
    if "error" in result:
        result["error"]["log"] = log[-_LOG_LINES:]
    partial = directory / "result.part"
    partial.write_text(json.dumps(result))
    partial.replace(directory / "result.json")


def _limit(directory: Path, timeout: float) -> None:
    """End with the time, and with whoever waits for the result.

    A waiting process says so on our standard input, and holds it open. Some
    containers have none: there the time alone counts.
    """

    def watch() -> None:
        # not through sys.stdin, whose lock Python wants when it ends
        if os.read(0, 1):
            os.read(0, 1)
            shutil.rmtree(directory, ignore_errors=True)
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    timer = threading.Timer(timeout, os._exit, [1])
    timer.daemon = True
    timer.start()


def _build(directory: Path, request: Any, log: list[str]) -> dict[str, Any]:
    trt = _tensorrt(request["builders"])
    major = int(trt.__version__.split(".")[0])
    is_rtx = trt.__name__ != "tensorrt"
    if not is_rtx and major < 10:
        msg = f"this is TensorRT {trt.__version__}; 10 or later is needed"
        raise _Failure("failed", msg)
    logger = _logger(trt, log)
    builder = trt.Builder(logger)
    # Types come from the graph alone, in all versions: TensorRT 11 knows no
    # other way.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    _parse(trt, network, logger, directory / "model.onnx")
    config = _configure(trt, builder, request, is_rtx=is_rtx)
    cache = directory / "timing.cache"
    if cache.exists():
        timing = config.create_timing_cache(cache.read_bytes())
        config.set_timing_cache(timing, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _Failure("failed", "TensorRT built no engine")
    (directory / "model.plan").write_bytes(plan)
    if cache.exists():
        cache.write_bytes(config.get_timing_cache().serialize())
    name, capability = _gpu()
    return {
        "builder": "tensorrt_rtx" if is_rtx else "tensorrt",
        "builder_version": trt.__version__,
        "gpu": name,
        "compute_capability": capability,
        "inputs": _tensors(network.num_inputs, network.get_input),
        "outputs": _tensors(network.num_outputs, network.get_output),
    }


def _tensorrt(names: list[str]) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    raise _Failure("missing", f"{sys.executable} has none of {names}")


def _logger(trt: Any, log: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            # internal errors come without a GPU, and when all goes well
            if severity == trt.ILogger.Severity.ERROR:
                log.append(message.strip())

    return Logger()


def _parse(trt: Any, network: Any, logger: Any, path: Path) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse(path.read_bytes()):
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    said = [
        f"node {e.node_name()!r} ({e.node_operator()}):"
        f" {e.desc()} ({e.code().name} in {e.func()})"
        for e in errors
    ]
    msg = f"TensorRT's parser does not take the graph: {'; '.join(said)}"
    raise _Failure("graph", msg)


def _configure(trt: Any, builder: Any, request: Any, *, is_rtx: bool) -> Any:
    config = builder.create_builder_config()
    if request["tf32"]:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if request["workspace"] is not None:
        pool = trt.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, request["workspace"])
    if request["hardware_compatibility"] is not None:
        level = _level(trt, request["hardware_compatibility"], is_rtx=is_rtx)
        config.hardware_compatibility_level = level
    if request["profile"]:
        profile = builder.create_optimization_profile()
        for name, shapes in request["profile"].items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    return config


def _level(trt: Any, name: str, *, is_rtx: bool) -> Any:
    levels = trt.HardwareCompatibilityLevel.__members__
    if is_rtx or name.upper() not in levels:
        msg = (
            f"{trt.__name__} {trt.__version__} has no"
            f" hardware_compatibility={name!r}"
        )
        raise _Failure("request", msg)
    return levels[name.upper()]


def _tensors(count: int, get: Any) -> list[Any]:
    tensors = [get(i) for i in range(count)]
    return [[t.name, t.dtype.name, list(t.shape)] for t in tensors]


def _gpu() -> tuple[str | None, str | None]:
    """Name and compute capability of the GPU that TensorRT builds on."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    )
    if failed:
        return None, None
    return name.value.decode(), f"{major.value}.{minor.value}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
