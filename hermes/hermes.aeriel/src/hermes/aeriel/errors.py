"""Everything that aeriel raises.

    AerielError
    ├── ClientError
    │   ├── ClientClosed         (RuntimeError)
    │   ├── ClientForked         (RuntimeError)
    │   ├── DeadlineExceeded     (TimeoutError)
    │   ├── InferenceError       (RuntimeError)
    │   ├── InvalidRequest       (ValueError)
    │   │   ├── DtypeMismatch
    │   │   └── ShapeMismatch
    │   ├── ModelNotFound        (LookupError)
    │   ├── SequenceEnded        (RuntimeError)
    │   ├── SequenceLost         (RuntimeError)
    │   ├── ServerUnavailable    (ConnectionError)
    │   ├── StreamBroken         (ConnectionError)
    │   └── UnsupportedModel     (ValueError)
    ├── ExtraMissing             (ImportError)
    ├── InvalidEndpoint          (ValueError)
    ├── MonitorError
    │   ├── InvalidMonitorOption (ValueError)
    │   ├── MetricsUnavailable   (ConnectionError)
    │   ├── MonitorDied          (RuntimeError)
    │   ├── MonitorMisused       (RuntimeError)
    │   ├── RecordUnreadable     (ValueError)
    │   └── RecordUnwritable     (OSError)
    └── ServeError
        ├── InvalidServeOption   (ValueError)
        ├── GpuMismatch          (RuntimeError)
        ├── ImageNotFound        (FileNotFoundError)
        ├── ImagePullFailed      (RuntimeError)
        ├── ImageUnusable        (ValueError)
        ├── ModelControlFailed   (RuntimeError)
        ├── RepositoryNotFound   (FileNotFoundError)
        ├── RepositoryUnusable   (ValueError)
        ├── PortTaken            (OSError)
        ├── RuntimeUnusable      (RuntimeError)
        │   ├── BackendMissing
        │   ├── RuntimeMissing
        │   └── RuntimeStale
        ├── InstallFailed        (RuntimeError)
        ├── ServerDied           (RuntimeError)
        ├── ServerStopped        (RuntimeError)
        └── ServerTimeout        (TimeoutError)

A message says what was given, what was expected and what to do about it.
"""

__all__ = (
    "AerielError",
    "BackendMissing",
    "ClientClosed",
    "ClientError",
    "ClientForked",
    "DeadlineExceeded",
    "DtypeMismatch",
    "ExtraMissing",
    "GpuMismatch",
    "ImageNotFound",
    "ImagePullFailed",
    "ImageUnusable",
    "InferenceError",
    "InstallFailed",
    "InvalidEndpoint",
    "InvalidMonitorOption",
    "InvalidRequest",
    "InvalidServeOption",
    "MetricsUnavailable",
    "ModelControlFailed",
    "ModelNotFound",
    "MonitorDied",
    "MonitorError",
    "MonitorMisused",
    "PortTaken",
    "RecordUnreadable",
    "RecordUnwritable",
    "RepositoryNotFound",
    "RepositoryUnusable",
    "RuntimeMissing",
    "RuntimeStale",
    "RuntimeUnusable",
    "SequenceEnded",
    "SequenceLost",
    "ServeError",
    "ServerDied",
    "ServerStopped",
    "ServerTimeout",
    "ServerUnavailable",
    "ShapeMismatch",
    "StreamBroken",
    "UnsupportedModel",
)


class AerielError(Exception):
    """Base of every error that aeriel raises."""


class ClientError(AerielError):
    """Base of what ``hermes.aeriel.client`` raises.

    Args:
        message: What went wrong.
        request_id: The request that failed, as the caller named it.
        sequence_id: The sequence that it belongs to.
        server_message: What the server said.

    Attributes:
        request_id: As given; None if no request is concerned.
        sequence_id: As given; None if no sequence is concerned.
        server_message: As given; None if the server said nothing.
    """

    def __init__(
        self,
        message: str = "",
        *,
        request_id: int | str | None = None,
        sequence_id: int | None = None,
        server_message: str | None = None,
    ) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.sequence_id = sequence_id
        self.server_message = server_message


class ClientClosed(ClientError, RuntimeError):
    """The client was closed."""


class ClientForked(ClientError, RuntimeError):
    """The client was made before a fork, in the parent process."""


class DeadlineExceeded(ClientError, TimeoutError):
    """The server did not answer in time."""


class InferenceError(ClientError, RuntimeError):
    """The server refused or failed a request; the message is its own."""


class InvalidRequest(ClientError, ValueError):
    """A request does not fit the model; it was not sent."""


class DtypeMismatch(InvalidRequest):
    """An array has another dtype than the model takes."""


class ShapeMismatch(InvalidRequest):
    """An array has another shape than the model takes."""


class ModelNotFound(ClientError, LookupError):
    """The server has no such model, or it is not ready."""


class SequenceEnded(ClientError, RuntimeError):
    """The sequence has had its END."""


class SequenceLost(ClientError, RuntimeError):
    """An update failed: what the server remembers is not the stream."""


class ServerUnavailable(ClientError, ConnectionError):
    """Nothing that speaks Triton's protocol answers at the address."""


class StreamBroken(ClientError, ConnectionError):
    """The stream of requests ended before they were all answered."""


class UnsupportedModel(ClientError, ValueError):
    """The model has tensors or streams that this client cannot handle."""


class ExtraMissing(AerielError, ImportError):
    """A feature needs an extra of hermes-aeriel that is not installed."""


class InvalidEndpoint(AerielError, ValueError):
    """A file or a value is not an endpoint."""


class MonitorError(AerielError):
    """Base of what ``hermes.aeriel.monitor`` raises."""


class InvalidMonitorOption(MonitorError, ValueError):
    """An option of a monitor has a value that cannot work."""


class MetricsUnavailable(MonitorError, ConnectionError):
    """A server's metrics could not be read for longer than is tolerated."""


class MonitorDied(MonitorError, RuntimeError):
    """The monitor's process ended without having been asked to."""


class MonitorMisused(MonitorError, RuntimeError):
    """A monitor was started twice."""


class RecordUnreadable(MonitorError, ValueError):
    """A file is not what a monitor records, or there is nothing in it."""


class RecordUnwritable(MonitorError, OSError):
    """What was measured could not be written."""


class ServeError(AerielError):
    """Base of what ``hermes.aeriel.serve`` raises."""


class InvalidServeOption(ServeError, ValueError):
    """An option of ``serve()`` has a value that cannot work."""


class GpuMismatch(ServeError, RuntimeError):
    """The server sees other GPUs than it was given."""


class ImageNotFound(ServeError, FileNotFoundError):
    """There is no such container image on this machine."""


class ImagePullFailed(ServeError, RuntimeError):
    """A container image could not be downloaded, or read."""


class ImageUnusable(ServeError, ValueError):
    """It is no container image, damaged, or for another kind of machine."""


class ModelControlFailed(ServeError, RuntimeError):
    """A model could not be loaded or unloaded; the message is the server's."""


class RepositoryNotFound(ServeError, FileNotFoundError):
    """The model repository is not a directory of this machine."""


class RepositoryUnusable(ServeError, ValueError):
    """The model repository holds nothing that Triton can serve."""


class PortTaken(ServeError, OSError):
    """A port that the server needs is in use."""


class RuntimeUnusable(ServeError, RuntimeError):
    """The local Triton runtime is damaged, or this machine cannot run it."""


class BackendMissing(RuntimeUnusable):
    """The local runtime was installed without what a model needs."""


class RuntimeMissing(RuntimeUnusable):
    """There is no local Triton runtime."""


class RuntimeStale(RuntimeUnusable):
    """The local runtime was installed by another version of aeriel."""


class InstallFailed(ServeError, RuntimeError):
    """The local Triton runtime could not be installed."""


class ServerDied(ServeError, RuntimeError):
    """The server ended, or cannot become ready any more."""


class ServerStopped(ServeError, RuntimeError):
    """The server was stopped by its owner."""


class ServerTimeout(ServeError, TimeoutError):
    """The server was not ready before the deadline."""
