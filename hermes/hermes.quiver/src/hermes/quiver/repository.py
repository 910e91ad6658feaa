"""The directory of models that Triton loads."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from hermes.quiver._found import describe
from hermes.quiver._named import Named
from hermes.quiver._plans import capability_of
from hermes.quiver._verify_stream import StreamReport
from hermes.quiver.config import ModelConfig
from hermes.quiver.ensembles import Ensemble
from hermes.quiver.errors import (
    InvalidName,
    ModelExists,
    ModelNotFound,
    UnknownPlatform,
)
from hermes.quiver.lint import Context, Finding, lint
from hermes.quiver.models import Model
from hermes.quiver.platforms import Platform
from hermes.quiver.storage import open_storage

__all__ = ("ModelRepository",)

# Triton takes the directory's name; a leading dot would hide it.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


class ModelRepository:
    """A Triton model repository.

    Nothing is written before a version is exported, and a version appears
    whole or not at all (what buckets cannot promise stands in
    ``docs/repositories.md``). What others put in the root stays as it is.

    Args:
        root: A directory, made when it is first needed;
            ``gs://bucket/prefix`` (extra ``gcs``), ``s3://bucket/prefix``
            (extra ``s3``), ``memory://name`` or what else fsspec writes to.
        clean: Remove the models that are there. Files and directories that
            are not models stay.
        **storage_options: Passed to the fsspec filesystem.

    Attributes:
        models: The models by name, those found at the root included.

    Raises:
        RepositoryNotFound: If ``root`` is something else than a directory, or
            names a bucket that does not exist.
        MissingExtra: If the extra for such a root is not installed.
        StorageFailed: If the storage cannot be read.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        clean: bool = False,
        **storage_options: Any,
    ) -> None:
        self._storage = open_storage(root, storage_options)
        self.models = self._named({})
        self._strangers: set[str] = set()
        self.refresh()
        if clean:
            for name in list(self.models):
                self.remove(name)

    @property
    def root(self) -> str:
        """Where the repository is, as Triton and ``serve()`` read it."""
        return self._storage.root

    def __repr__(self) -> str:
        return f"ModelRepository({self.root!r}, models={list(self.models)})"

    def refresh(self) -> None:
        """Read again what is at the root; unexported models are forgotten.

        A model whose configuration cannot be understood is there too: its
        `Model.problem` says why.

        Raises:
            StorageFailed: If the storage cannot be read.
        """
        found = {
            entry.name: (entry, describe(entry))
            for entry in self._storage.scan()
        }
        self.models = self._named(
            {
                name: self._model(name, model.config, model.problem)
                for name, (_, model) in found.items()
                if model is not None
            }
        )
        self._strangers = {
            name
            for name, (entry, model) in found.items()
            if model is None and entry.files
        }

    def _named(self, models: dict[str, Model]) -> dict[str, Model]:
        return Named(models, ModelNotFound, f"{self.root} has no model")

    def _model(
        self, name: str, config: ModelConfig, problem: str | None = None
    ) -> Model:
        is_ensemble = config.platform == Platform.ENSEMBLE
        return (Ensemble if is_ensemble else Model)(
            name, self, self._storage, config, problem
        )

    def add(
        self, name: str, platform: Platform | str, force: bool = False
    ) -> Model:
        """Add a model; it reaches the disk with its first version.

        Args:
            name: Name of the model and of its directory.
            platform: What will execute it.
            force: Remove a model of this name instead of refusing.

        Returns:
            The model; an `Ensemble` for ``Platform.ENSEMBLE``.

        Raises:
            InvalidName: If no directory that Triton loads can have the name.
            ModelExists: If there is such a model and ``force`` is not set, or
                a directory of that name that is no model.
            UnknownPlatform: If there is no such platform.
        """
        self._check_name(name)
        platform = _platform(platform)
        if name in self.models:
            if not force:
                msg = (
                    f"{self.root} has a model {name!r} already; take another"
                    " name, or force=True to replace it, or empty the"
                    " repository with ModelRepository(..., clean=True)"
                )
                raise ModelExists(msg)
            self.remove(name)
        model = self._model(name, ModelConfig(name, platform))
        self.models[name] = model
        return model

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            msg = (
                f"{name!r} cannot name a model: use letters, digits, '_',"
                " '-' and '.', and no leading '.' or '-'"
            )
            raise InvalidName(msg)
        if name in self._strangers:
            msg = (
                f"{self.root} has a directory {name!r} that is no model, and"
                " its files are not ours to touch; take another name"
            )
            raise ModelExists(msg)

    def remove(self, model: Model | str) -> None:
        """Remove a model with all its versions, here and at the root.

        Raises:
            ModelNotFound: If there is no such model.
        """
        name = model if isinstance(model, str) else model.name
        found = self.models[name]
        self._storage.remove(found.name)
        del self.models[name]

    def lint(
        self,
        sample_rate: float | None = None,
        container: str | None = None,
        gpu: str | None = None,
    ) -> list[Finding]:
        """Find what would go wrong on a server.

        Args:
            sample_rate: Samples of the streams per second [Hz]; without it
                idle times cannot be judged.
            container: Release of the Triton container that will serve it,
                such as ``"25.06"``; without it backends cannot be judged.
            gpu: The GPU that will run it, such as ``"A100"``, or its compute
                capability, such as ``"8.0"``; without it only the versions of
                TensorRT's engines can be judged.

        Returns:
            What was found, errors first; each with a cure.

        Raises:
            ValueError: If ``container`` is no release, ``gpu`` not known, or
                ``sample_rate`` not positive.
            StorageFailed: If the storage cannot be read.
        """
        if sample_rate is not None and not sample_rate > 0:
            msg = f"sample_rate={sample_rate} is not positive"
            raise ValueError(msg)
        context = Context(
            self.models,
            sample_rate,
            _release(container),
            None if gpu is None else capability_of(gpu),
        )
        return lint(context)

    def verify_stream(
        self,
        ensemble: Ensemble | str,
        data: Mapping[str, npt.ArrayLike] | None = None,
    ) -> StreamReport:
        """Prove that an ensemble streams what it computes offline.

        See `Ensemble.verify_stream`.

        Raises:
            ModelNotFound: If the repository has no such ensemble.
        """
        name = ensemble if isinstance(ensemble, str) else ensemble.name
        found = self.models.get(name)
        if not isinstance(found, Ensemble):
            msg = f"{self.root} has no ensemble {name!r}"
            raise ModelNotFound(msg)
        return found.verify_stream(data)

    def delete(self) -> None:
        """Remove all models, and the root if nothing else is in it."""
        for name in list(self.models):
            self.remove(name)
        self._storage.remove_root()


def _platform(platform: Platform | str) -> Platform:
    try:
        return Platform(platform)
    except ValueError:
        known = ", ".join(repr(p.value) for p in Platform)
        msg = f"{platform!r} is not a valid Platform; there are {known}"
        raise UnknownPlatform(msg) from None


def _release(container: str | None) -> tuple[int, int] | None:
    if container is None:
        return None
    match = re.match(r"(\d\d)\.(\d\d)", container)
    if match is None:
        msg = f"container={container!r} is no release such as '25.06'"
        raise ValueError(msg)
    return int(match[1]), int(match[2])
