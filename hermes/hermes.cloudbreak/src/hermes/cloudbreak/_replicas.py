"""One server of several: where it is, and whether it infers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

from hermes.cloudbreak import _inference, manifests
from hermes.cloudbreak.errors import ResourceFailed, WaitTimeout

__all__ = (
    "Endpoint",
    "Ready",
    "endpoint_at",
    "infer_zeros",
    "on_each",
    "worst",
)

# Seconds that one request of a test may take.
_REQUEST = 30.0


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens: ``"host:port"`` each.

    Attributes:
        grpc: Its gRPC service.
        http: Its HTTP service.
        metrics: Its metrics.
    """

    grpc: str
    http: str
    metrics: str


def infer_zeros(endpoint: Endpoint, timeout: float = _REQUEST) -> None:
    """Test a server: it is ready, and each of its models infers zeros.

    Args:
        endpoint: The server.
        timeout: Seconds that each request may take.

    Raises:
        ConnectionError: If it is not ready yet.
        ResourceFailed: If a model does not answer.
    """
    _inference.ask(endpoint.http, "/v2/health/ready", timeout=timeout)
    for model in _inference.list_models(endpoint.http, timeout=timeout):
        _inference.infer_zeros(endpoint.http, model, timeout=timeout)


Ready = Callable[[Endpoint], object]


def endpoint_at(host: str) -> Endpoint:
    return Endpoint(**{n: f"{host}:{p}" for n, p in manifests.PORTS.items()})


def on_each(
    endpoints: Iterable[tuple[str, Endpoint]],
    work: Callable[[Endpoint, Event], object],
) -> dict[str, Exception]:
    """Do something with all servers at once; give who failed, and how.

    After Ctrl-C it does not wait for what is going on: work that repeats
    something has to end when its event is set.
    """
    named = dict(endpoints)
    failed: dict[str, Exception] = {}
    stop = Event()
    pool = ThreadPoolExecutor(max(1, len(named)), "hermes-triton")
    try:
        futures = {
            name: pool.submit(work, each, stop) for name, each in named.items()
        }
        for name, future in futures.items():
            try:
                future.result()
            except Exception as error:  # noqa: BLE001 - who calls decides
                failed[name] = error
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
    return failed


def worst(failed: Mapping[str, Exception]) -> Exception:
    """Choose the error to raise; it names all that failed."""
    text = "; ".join(f"{name}: {error}" for name, error in failed.items())
    only_late = all(isinstance(e, WaitTimeout) for e in failed.values())
    error = (WaitTimeout if only_late else ResourceFailed)(text)
    error.__cause__ = next(iter(failed.values()))
    return error
