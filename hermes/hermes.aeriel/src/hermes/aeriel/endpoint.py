"""Where a Triton server listens, as a value that travels between jobs."""

import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol, Self

from hermes.aeriel.errors import InvalidEndpoint

__all__ = ("Endpoint", "EndpointLike")

_ADDRESS = re.compile(
    r"(?P<host>[^\s/\[\]]+|\[[0-9a-fA-F:.%]+\]):(?P<port>\d+)"
)


class EndpointLike(Protocol):
    """What a client needs to know of a server: three ``"host:port"``.

    ``serve()`` and cloudbreak's services satisfy it without importing it.
    """

    @property
    def grpc(self) -> str:
        """``"host:port"`` of the gRPC service."""

    @property
    def http(self) -> str:
        """``"host:port"`` of the HTTP service."""

    @property
    def metrics(self) -> str:
        """``"host:port"`` of the metrics service."""


@dataclass(frozen=True)
class Endpoint:
    """The three addresses of one Triton server.

    Args:
        grpc: ``"host:port"`` of the gRPC service.
        http: ``"host:port"`` of the HTTP service.
        metrics: ``"host:port"`` of the metrics service.

    Raises:
        InvalidEndpoint: If an address is not ``"host:port"``.
    """

    grpc: str
    http: str
    metrics: str

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_address(field.name, getattr(self, field.name))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the endpoint as JSON.

        A reader sees the old file or the new one, never half of one, so that
        jobs may poll for it on a shared disk.

        Args:
            path: File to write; its directory must exist.

        Raises:
            FileNotFoundError: If that does not exist.
            OSError: If the file cannot be written.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"cannot write {path}: there is no folder {path.parent}; make "
                "it first"
            )
        descriptor, partial = tempfile.mkstemp(
            prefix=f".{path.name}.", dir=path.parent
        )
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(self), file, indent=2)
                file.write("\n")
            Path(partial).chmod(0o644)
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Args:
            path: File to read.

        Raises:
            FileNotFoundError: If there is no such file.
            InvalidEndpoint: If the file holds something else.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise InvalidEndpoint(f"{path} is not JSON: {error}") from error
        names = [field.name for field in fields(cls)]
        if not isinstance(found, dict) or not set(names) <= set(found):
            raise InvalidEndpoint(
                f"{path} must be a JSON object with {', '.join(names)}"
            )
        return cls(**{name: found[name] for name in names})


def _check_address(name: str, address: object) -> None:
    match = isinstance(address, str) and _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match["port"]) < 65536:
        raise InvalidEndpoint(f'{name} must be "host:port", got {address!r}')
