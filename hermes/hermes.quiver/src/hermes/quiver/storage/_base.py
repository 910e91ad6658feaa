"""What a repository asks of the place where its files live."""

from __future__ import annotations

import posixpath
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import fsspec

from hermes.quiver.errors import (
    MissingExtra,
    RepositoryNotFound,
    StorageFailed,
    VersionExists,
)
from hermes.quiver.storage._failures import translated
from hermes.quiver.storage._location import Location

__all__ = ("CONFIG", "Entry", "Storage")

CONFIG = "config.pbtxt"
_VERSION = re.compile(r"[1-9][0-9]*", re.ASCII)
_EXTRAS = {"gs": "gcs", "s3": "s3"}
# Else s3fs asks for the size first: one more request for each configuration.
_ONE_REQUEST = {"max_concurrency": 1}


@dataclass(frozen=True)
class Entry:
    """A directory in the repository's root.

    Attributes:
        name: Its name.
        config: Content of its ``config.pbtxt``; what went wrong where it
            cannot be read, None where there is none.
        files: Without a configuration: what is in the directory, and in that
            of its latest version.
    """

    name: str
    config: bytes | Exception | None
    files: tuple[str, ...] = ()


class Storage(ABC):
    """A model repository's files.

    Every storage promises:

    * a version number is given to one exporter only, whatever the others do;
    * a version of one file appears whole or not at all, and its
      configuration after it;
    * what fails is undone, as far as the storage still answers;
    * nothing is touched but what is named.

    Errors of the storage are `StorageForbidden` and `StorageFailed`.

    Args:
        location: Where it is.

    Raises:
        RepositoryNotFound: If fsspec does not know such URLs.
        MissingExtra: If the extra for them is not installed.
        StorageFailed: If the options do not fit.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self._fs = _filesystem(location)

    @property
    def root(self) -> str:
        """The root, as Triton reads it."""
        return self._location.root

    def address(self, *parts: object) -> str:
        """Address of something below the root."""
        return "/".join([self.root, *map(str, parts)])

    def scan(self) -> list[Entry]:
        """The directories in the root, with their configurations.

        One listing, and one read for each of them, many at a time.
        """
        with translated(f"list {self.root}"):
            names = self._directories(self._path())
            configs = self._read([self._path(n, CONFIG) for n in names])
            return [
                Entry(name, c, self._files(name) if c is None else ())
                for name, c in zip(names, configs, strict=True)
            ]

    def _files(self, model: str) -> tuple[str, ...]:
        names = [_basename(info) for info in self._list(self._path(model))]
        latest = self._versions(model)[-1:]
        names += [
            f"{version}/{_basename(info)}"
            for version in latest
            for info in self._list(self._path(model, version))
        ]
        return tuple(names)

    def versions(self, model: str) -> list[int]:
        """Numbers of the model's versions, ascending."""
        with translated(f"list {self.address(model)}"):
            return self._versions(model)

    def _versions(self, model: str) -> list[int]:
        names = self._directories(self._path(model))
        return sorted(int(n) for n in names if _VERSION.fullmatch(n))

    def read_artifact(self, model: str, version: int, filename: str) -> bytes:
        """Content of an artifact."""
        with translated(f"read {self.address(model, version, filename)}"):
            content: bytes = self._fs.cat_file(
                self._path(model, version, filename)
            )
            return content

    def publish(
        self,
        model: str,
        version: int | None,
        files: Mapping[str, bytes],
        config: str,
        *,
        replace: bool = False,
    ) -> int:
        """Add a version: all its files, then the configuration.

        Args:
            model: Name of the model.
            version: Number of the version; None takes the highest plus one,
                and the next if another exporter is faster.
            files: Content by name; a name may have directories.
            config: Text of the configuration.
            replace: Whether an existing version may be replaced.

        Returns:
            Number of the version.

        Raises:
            VersionExists: If the version is there and ``replace`` not set.
        """
        if version is not None:
            self.add_version(model, version, files, config, replace=replace)
            return version
        number = 0
        while True:
            number = max(number, *self.versions(model), 0) + 1
            try:
                self.add_version(model, number, files, config)
            except VersionExists:
                continue
            return number

    @abstractmethod
    def add_version(
        self,
        model: str,
        version: int,
        files: Mapping[str, bytes],
        config: str,
        *,
        replace: bool = False,
    ) -> None:
        """Add one version; see `publish`.

        Raises:
            VersionExists: If the version is there and ``replace`` not set.
        """

    @abstractmethod
    def check_writable(self) -> None:
        """Refuse, without writing, where it is clear that nothing can be.

        Raises:
            StorageForbidden: If the user may not write.
        """

    @abstractmethod
    def write_config(self, model: str, config: str) -> None:
        """Replace the model's configuration, whole or not at all."""

    @abstractmethod
    def remove(self, model: str) -> None:
        """Delete all that belongs to the model; no error if nothing does."""

    @abstractmethod
    def remove_root(self) -> None:
        """Delete the root if it is a directory and nothing is left in it."""

    def _path(self, *parts: object) -> str:
        return "/".join([self._location.path.rstrip("/"), *map(str, parts)])

    def _list(self, path: str) -> list[dict[str, Any]]:
        try:
            infos: list[dict[str, Any]] = self._fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        # Some buckets have an object for the directory itself.
        return [i for i in infos if i["name"].strip("/") != path.strip("/")]

    def _directories(self, path: str) -> list[str]:
        infos = self._list(path)
        names = {_basename(i) for i in infos if i["type"] == "directory"}
        return sorted(name for name in names if not name.startswith("."))

    def _read(self, paths: Iterable[str]) -> list[bytes | Exception | None]:
        """Read many files at a time; None where there is none."""
        paths = list(paths)
        # `cat` would take names with brackets and stars for patterns
        contents = self._fs.cat_ranges(
            paths, None, None, on_error="return", **_ONE_REQUEST
        )
        return [
            None if isinstance(content, FileNotFoundError) else content
            for content in contents
        ]


def _basename(info: Mapping[str, Any]) -> str:
    return posixpath.basename(str(info["name"]).rstrip("/"))


def _filesystem(location: Location) -> Any:
    try:
        kind = fsspec.get_filesystem_class(location.protocol)
    except ImportError as error:
        extra = _EXTRAS.get(location.protocol)
        msg = f"{location.root} cannot be opened: {error}" + (
            f"; it comes with hermes-quiver's extra {extra!r}" if extra else ""
        )
        raise MissingExtra(msg) from error
    except ValueError as error:
        msg = (
            f"{location.root}: there is no storage {location.protocol!r}; use"
            " a directory, gs://bucket/prefix or s3://bucket/prefix"
        )
        raise RepositoryNotFound(msg) from error
    try:
        return kind(**location.options)
    except (TypeError, ValueError) as error:
        msg = f"{location.root} cannot be opened with these options: {error}"
        raise StorageFailed(msg) from error
