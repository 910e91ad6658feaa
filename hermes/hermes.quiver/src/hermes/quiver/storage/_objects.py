"""A repository in a bucket, or wherever else fsspec can write."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractContextManager,
    ExitStack,
    nullcontext,
    suppress,
)

from fsspec.asyn import AsyncFileSystem

from hermes.quiver.errors import RepositoryNotFound, VersionExists
from hermes.quiver.storage._base import CONFIG, Entry, Storage
from hermes.quiver.storage._failures import is_taken, translated
from hermes.quiver.storage._location import Location

__all__ = ("ObjectStorage",)

_AT_A_TIME = 16
_IN_THIS_PROCESS = threading.Lock()


class ObjectStorage(Storage):
    """A model repository in a bucket.

    An object is written whole or not at all, and can be created on the
    condition that it is not there (GCS: ``ifGenerationMatch=0``, S3:
    ``If-None-Match: *``). So the first file of a version is also the claim to
    its number, and needs no lock. The order is: artifact, then configuration.
    That leaves:

    * A version of several files (a SavedModel) is complete only after its
      last one. A server that polls the bucket may try it earlier, and again
      when the rest is there.
    * A new model's first version is there for a moment without its
      configuration. A server that polls may load it with one of its own
      guess, unless it has ``--disable-auto-complete-config``, and loads it
      again when the configuration comes.
    * A process that is killed after the artifact leaves a version without
      this export's configuration: the model's old one, or none.
    * An S3 server without conditional writes (an old MinIO, say), and
      storages that fsspec creates in no exclusive way, cannot keep two
      processes from writing one version. ``memory://`` belongs to one
      process, where a lock decides.
    * When the answer to a creation is lost, the repeated one finds the
      object and takes it for another exporter's: the version stays, and the
      export goes on with the next number.
    """

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        # Stores that are no network service have no exclusive creation.
        self._is_service = isinstance(self._fs, AsyncFileSystem)
        self._claim: AbstractContextManager[object] = (
            nullcontext() if self._is_service else _IN_THIS_PROCESS
        )

    def scan(self) -> list[Entry]:
        """See `Storage.scan`.

        Raises:
            RepositoryNotFound: If there is no such bucket.
        """
        entries = super().scan()
        if not entries and self._is_service:
            with translated(f"open {self.root}"):
                self._check_bucket()
        return entries

    def _check_bucket(self) -> None:
        try:
            self._fs.ls(self._location.bucket)
        except FileNotFoundError as error:
            msg = (
                f"{self.root}: there is no bucket"
                f" {self._location.bucket!r}, or you may not see it; create"
                " it first, for buckets have owners, places and prices"
            )
            raise RepositoryNotFound(msg) from error

    def check_writable(self) -> None:
        """Nothing: a bucket tells when something is written."""

    def add_version(
        self,
        model: str,
        version: int,
        files: Mapping[str, bytes],
        config: str,
        *,
        replace: bool = False,
    ) -> None:
        """See `Storage.add_version`."""
        home = self._path(model, version)
        new = {f"{home}/{name}": content for name, content in files.items()}
        action = f"write version {version} of {self.address(model)}"
        with translated(action), ExitStack() as undo:
            if replace:
                self._replace(home, new, undo)
            else:
                self._create(new, undo)
            self._overwrite(self._path(model, CONFIG), config.encode(), undo)
            undo.pop_all()

    def _create(self, new: Mapping[str, bytes], undo: ExitStack) -> None:
        """Write what must not be there; the first one decides whose it is."""
        for path, content in new.items():
            try:
                with self._claim:
                    self._fs.pipe_file(path, content, mode="create")
            except BaseException as error:
                if is_taken(error):
                    msg = (
                        f"{self._location.protocol}://{path} exists already;"
                        " leave version=None for the next free version"
                    )
                    raise VersionExists(msg) from error
                # It may be there all the same, if only the answer was lost.
                undo.callback(self._withdraw, path, content)
                raise
            undo.callback(self._restore, path, None)

    def _replace(
        self, home: str, new: Mapping[str, bytes], undo: ExitStack
    ) -> None:
        for path, content in new.items():
            self._overwrite(path, content, undo)
        for path in {*self._find(home)} - {*new}:
            undo.callback(self._restore, path, self._content(path))
            self._fs.rm_file(path)

    def _overwrite(self, path: str, content: bytes, undo: ExitStack) -> None:
        before = self._content(path)
        if before != content:
            undo.callback(self._restore, path, before)
            self._fs.pipe_file(path, content)

    def _restore(self, path: str, content: bytes | None) -> None:
        # The storage may have stopped to answer, which is why we are here:
        # the first error is the one to report.
        with suppress(Exception):
            if content is None:
                self._fs.rm_file(path)
            else:
                self._fs.pipe_file(path, content)

    def _withdraw(self, path: str, content: bytes) -> None:
        with suppress(Exception):
            if self._content(path) == content:
                self._fs.rm_file(path)

    def write_config(self, model: str, config: str) -> None:
        """See `Storage.write_config`."""
        path = self._path(model, CONFIG)
        with translated(f"write {self.address(model, CONFIG)}"):
            self._fs.pipe_file(path, config.encode())

    def remove(self, model: str) -> None:
        """See `Storage.remove`.

        The configuration goes last, so that what an interruption leaves is
        still seen to be this model.
        """
        home = self._path(model)
        config = f"{home}/{CONFIG}"
        with translated(f"remove {self.address(model)}"):
            found = self._find(home)
            self._remove_all(path for path in found if path != config)
            self._remove_all(path for path in found if path == config)

    def remove_root(self) -> None:
        """Nothing: a prefix ends with its objects; buckets are others'."""

    def _find(self, home: str) -> list[str]:
        """All objects in a directory, and none of whose names it is a part."""
        try:
            found = self._fs.find(home)
        except FileNotFoundError:
            return []
        return [path for path in found if path.startswith(f"{home}/")]

    def _remove_all(self, paths: Iterable[str]) -> None:
        # One by one: s3fs's bulk deletion tells of no error, and `rm` would
        # take names with brackets and stars for patterns.
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            for _ in pool.map(self._remove, paths):
                pass

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def _content(self, path: str) -> bytes | None:
        (content,) = self._read([path])
        if isinstance(content, Exception):
            raise content
        return content
