"""Programs that kubeconfig files name, and that give credentials."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

from hermes.cloudbreak.errors import CloudUnavailable, InvalidSpec, Refused

__all__ = ("run_plugin",)

# Seconds that one may take: it may ask a server.
_LIMIT = 60.0


def run_plugin(
    config: Mapping[str, Any],
    folder: str,
    cluster: Mapping[str, Any],
    limit: float = _LIMIT,
) -> dict[str, str]:
    """Run one; give what takes its place in the file.

    The official client would wait for it without end, and only log what goes
    wrong.

    Args:
        config: What the file says under ``exec``.
        folder: Where the file is.
        cluster: What the file says of the cluster.
        limit: Seconds that it may take; then it is ended, with all that it
            has started.

    Raises:
        InvalidSpec: If there is no such program.
        CloudUnavailable: If it takes too long.
        Refused: If it gives no credentials.
    """
    name = str(config.get("command") or "")
    arguments = [name, *map(str, config.get("args") or ())]
    try:
        process = subprocess.Popen(
            arguments,
            cwd=folder or None,
            env=_environment(config, cluster),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        hint = config.get("installHint") or "install it, or give another file"
        raise InvalidSpec(
            f"exec command={name!r} of the kubeconfig: {error}; {hint}"
        ) from error
    try:
        said, complaint = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        _end(process)
        raise CloudUnavailable(
            f"exec command={name!r} of the kubeconfig gave no credentials "
            f"within {limit:g} s, and was ended"
        ) from None
    except BaseException:  # Ctrl-C
        _end(process)
        raise
    if process.returncode:
        raise Refused(
            f"exec command={name!r} of the kubeconfig ended with exit code "
            f"{process.returncode}: {complaint.strip()[-500:]}"
        )
    return _read(name, said)


def _environment(
    config: Mapping[str, Any], cluster: Mapping[str, Any]
) -> dict[str, str]:
    spec: dict[str, Any] = {"interactive": False}
    if config.get("provideClusterInfo"):
        spec["cluster"] = dict(cluster)
    info = {
        "apiVersion": config.get("apiVersion"),
        "kind": "ExecCredential",
        "spec": spec,
    }
    given = {e["name"]: str(e["value"]) for e in config.get("env") or ()}
    told = {"KUBERNETES_EXEC_INFO": json.dumps(info)}
    return {**os.environ, **given, **told}


def _end(process: subprocess.Popen[str]) -> None:
    """Leave nothing of it, nor of what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _read(name: str, said: str) -> dict[str, str]:
    try:
        status = json.loads(said)["status"]
        if token := status.get("token"):
            return {"token": token}
        return {
            "client-certificate-data": _encode(
                status["clientCertificateData"]
            ),
            "client-key-data": _encode(status["clientKeyData"]),
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Refused(  # without what it said, which may be secret
            f"exec command={name!r} of the kubeconfig gave neither a token "
            "nor a certificate with its key"
        ) from None


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
