"""Pure: from what the user gives as a root to what Triton reads."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hermes.quiver.errors import RepositoryNotFound

__all__ = ("Location", "locate")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(.*)")
_ALIASES = {"gcs": "gs", "s3a": "s3", "local": "file"}
_BUCKETS = {"gs", "s3"}
# Triton's own way to name an S3 server that is not Amazon's.
_ENDPOINT = re.compile(r"(https?://[^/]+)/*(.*)")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Location:
    """Where a repository is.

    Attributes:
        protocol: The name by which fsspec knows the storage.
        path: The root, as the storage's filesystem names it.
        root: The root, as Triton reads it.
        options: For the filesystem.
    """

    protocol: str
    path: str
    root: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bucket(self) -> str:
        """The bucket, where the storage has some."""
        return self.path.partition("/")[0]


def locate(
    root: str | os.PathLike[str], options: Mapping[str, Any]
) -> Location:
    """Work out where a repository is.

    Args:
        root: A directory, ``gs://bucket/prefix``, ``s3://bucket/prefix``,
            ``s3://http://host:port/bucket/prefix`` as Triton has it, or
            another URL that fsspec knows.
        options: Passed to the filesystem.

    Raises:
        RepositoryNotFound: If the URL is incomplete.
    """
    text = os.fspath(root)
    url = _URL.fullmatch(text)
    protocol = _ALIASES.get(url[1].lower(), url[1].lower()) if url else "file"
    # What others write must be seen, so listings are not remembered.
    options = {"use_listings_cache": False, **options}
    if protocol == "file":
        path = str(Path(url[2] if url else text).expanduser().absolute())
        return Location(protocol, path, path, options)
    return _remote(text, protocol, url[2] if url else "", options)


def _remote(
    text: str, protocol: str, rest: str, options: dict[str, Any]
) -> Location:
    prefix = ""
    if protocol == "s3":
        rest, options = _split_endpoint(rest, options)
        prefix = _endpoint(options)
    parts = rest.strip("/").split("/")
    if protocol in _BUCKETS and not parts[0]:
        msg = f"{text!r} names no bucket; give {protocol}://bucket/prefix"
        raise RepositoryNotFound(msg)
    if {".", ".."} & {*parts} or "" in parts[1:]:
        msg = (
            f"{text!r} has a part that is empty, '.' or '..': object stores"
            " take those literally; give the path without them"
        )
        raise RepositoryNotFound(msg)
    path = "/".join(parts)
    return Location(
        protocol,
        path if protocol in _BUCKETS else f"/{path}",
        f"{protocol}://{prefix}{path}",
        options,
    )


def _split_endpoint(
    rest: str, options: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    found = _ENDPOINT.fullmatch(rest)
    if found is None:
        return rest, options
    return found[2], {"endpoint_url": found[1], **options}


def _endpoint(options: Mapping[str, Any]) -> str:
    """The server as Triton wants it: with a port, always."""
    client = options.get("client_kwargs") or {}
    url = options.get("endpoint_url") or client.get("endpoint_url")
    if not url:
        return ""
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme, 443)
    return f"{parts.scheme}://{parts.hostname}:{port}/"
