"""Whether a Triton server infers: KServe's protocol over HTTP, by hand."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import secrets
from typing import Any
from urllib.parse import quote

from hermes.cloudbreak.errors import ResourceFailed

__all__ = ("ask", "count_inferences", "infer_zeros", "list_models")

# Bytes of one element; zeros of a string are those of its length.
_SIZES = {
    "BOOL": 1, "BYTES": 4, "BF16": 2, "FP16": 2, "FP32": 4, "FP64": 8,
    "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
    "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8,
}  # fmt: skip


def ask(
    address: str,
    path: str,
    body: bytes | None = None,
    *,
    timeout: float,
    headers: dict[str, str] | None = None,
) -> bytes:
    """Send one request to a server, and give its answer.

    Raises:
        ConnectionError: If there is no answer, or it asks to wait.
        ResourceFailed: If it answers with another error.
    """
    connection = http.client.HTTPConnection(address, timeout=timeout)
    method = "GET" if body is None else "POST"
    with contextlib.closing(connection):
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(f"{address}{path}: {error}") from error
    if response.status == http.client.OK:
        return answer
    said = answer.decode(errors="replace")[:500]
    text = f"{address}{path}: {response.status} {said}".strip()
    # Readiness is denied with 400, and models that are being loaded with 503.
    if response.status == 503 or path == "/v2/health/ready":
        raise ConnectionError(text)
    raise ResourceFailed(text)


def list_models(address: str, *, timeout: float) -> list[str]:
    """List the models that a server has ready."""
    answer = ask(
        address,
        "/v2/repository/index",
        json.dumps({"ready": True}).encode(),
        timeout=timeout,
    )
    return sorted({each["name"] for each in json.loads(answer)})


def count_inferences(address: str, *, timeout: float) -> int:
    """Count what all models of a server have inferred since it started."""
    answer = ask(address, "/v2/models/stats", timeout=timeout)
    stats = json.loads(answer)["model_stats"]
    return sum(int(each["inference_count"]) for each in stats)


def infer_zeros(address: str, model: str, *, timeout: float) -> None:
    """Send zeros to a model, as its own metadata asks for them.

    It is a sequence of one request, so that models with a state take it, too,
    and keep nothing of it.

    Raises:
        ConnectionError: If there is no answer.
        ResourceFailed: If the model does not answer.
    """
    path = f"/v2/models/{quote(model, '')}"
    metadata = json.loads(ask(address, path, timeout=timeout))
    inputs, zeros = [], b""
    for each in metadata["inputs"]:
        tensor = _zeros_of(each)
        inputs.append(tensor)
        zeros += bytes(tensor["parameters"]["binary_data_size"])
    request = {
        "inputs": inputs,
        "parameters": {
            "sequence_id": secrets.randbelow(1 << 62) + 1,
            "sequence_start": True,
            "sequence_end": True,
            "binary_data_output": True,  # not all numbers are in JSON
        },
    }
    header = json.dumps(request).encode()
    ask(
        address,
        f"{path}/infer",
        header + zeros,
        timeout=timeout,
        headers={"Inference-Header-Content-Length": str(len(header))},
    )


def _zeros_of(tensor: dict[str, Any]) -> dict[str, Any]:
    shape = [max(1, int(each)) for each in tensor["shape"]]
    size = math.prod(shape) * _SIZES[tensor["datatype"]]
    return {
        "name": tensor["name"],
        "shape": shape,
        "datatype": tensor["datatype"],
        "parameters": {"binary_data_size": size},
    }
