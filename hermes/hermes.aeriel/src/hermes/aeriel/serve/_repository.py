"""Look at a model repository before a server does."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from hermes.aeriel.errors import (
    InvalidServeOption,
    RepositoryNotFound,
    RepositoryUnusable,
)

__all__ = (
    "HasRoot",
    "Repositories",
    "check_repositories",
    "check_repository",
    "is_remote",
    "links_out_of",
)

# What Triton reads by itself.
_REMOTE = re.compile(r"(gs|s3|as)://\S+")


class HasRoot(Protocol):
    """A model repository as an object, such as quiver's."""

    @property
    def root(self) -> object: ...


Repositories = (
    str | os.PathLike[str] | HasRoot | Sequence[str | os.PathLike[str]]
)


def is_remote(repository: str) -> bool:
    """Whether a repository is in a bucket that Triton reads by itself."""
    return bool(_REMOTE.fullmatch(repository))


def check_repositories(
    repositories: Repositories, *, may_be_empty: bool
) -> tuple[str, ...]:
    """Return the directory or URL of every model repository.

    Args:
        repositories: One of those that :func:`check_repository` takes, or
            several.
        may_be_empty: Whether the server starts without models.

    Raises:
        InvalidServeOption: If there is none, or one is of another kind.
        RepositoryNotFound: See :func:`check_repository`.
        RepositoryUnusable: See :func:`check_repository`.
    """
    several = repositories if isinstance(repositories, list | tuple) else None
    found = tuple(
        check_repository(repository, may_be_empty=may_be_empty)
        for repository in ((repositories,) if several is None else several)
    )
    if not found:
        raise InvalidServeOption(
            "model_repo_dir must name at least one model repository, got "
            f"{repositories!r}"
        )
    return found


def check_repository(
    repository: str | os.PathLike[str] | HasRoot, *, may_be_empty: bool
) -> str:
    """Return the repository's directory, or its URL.

    What is in a bucket is for Triton to see: it has the credentials.

    Args:
        repository: Its path or URL, or an object with a ``root``.
        may_be_empty: Whether the server starts without models.

    Raises:
        InvalidServeOption: If it is none of these.
        RepositoryNotFound: If there is no such directory, or Triton cannot
            read such a URL.
        RepositoryUnusable: If no model is in it: Triton would start, and be
            ready to serve nothing. Or if it is a model itself.
    """
    # a pathlib.Path has a root too, of another kind
    is_path = isinstance(repository, str | os.PathLike)
    found = repository if is_path else getattr(repository, "root", None)
    if not isinstance(found, str | os.PathLike):
        raise InvalidServeOption(
            "model_repo_dir must be a path, a URL or an object with one as "
            f"its root, got {repository!r}"
        )
    text = str(found)
    if is_remote(text):
        return text
    if re.match(r"\w+://", text):
        raise RepositoryNotFound(
            f"Triton cannot read {text}; give a local directory, or a URL of"
            " gs://, s3:// or as://"
        )
    path = Path(text).absolute()
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise RepositoryNotFound(f"model repository {path} {what}")
    if (path / "config.pbtxt").is_file():
        raise RepositoryUnusable(
            f"{path} is a model, not a model repository: give the directory "
            f"that it is in, {path.parent}"
        )
    models = [entry for entry in path.iterdir() if entry.is_dir()]
    if not models and not may_be_empty:
        raise RepositoryUnusable(
            f"model repository {path} is empty: it must have a directory for "
            "every model"
        )
    return str(path)


def links_out_of(repository: Path) -> Iterator[str]:
    """Yield what symbolic links in a repository point to outside of it."""
    root = repository.resolve()
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                target = path.resolve()
                if target.exists() and not target.is_relative_to(root):
                    yield str(target)
