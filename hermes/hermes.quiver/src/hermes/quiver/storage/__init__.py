"""Where a repository's files live; the only package that touches them.

General layout:

* `_location`: pure, from what the user gives to what Triton reads;
* `_base`: `Storage`, the interface with its promises, and all reading;
* `_local`: directories, published by renaming (`_staging`: where from);
* `_objects`: buckets and everything else that fsspec knows;
* `_failures`: errors of other packages become quiver's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hermes.quiver.storage._base import CONFIG, Entry, Storage
from hermes.quiver.storage._local import LocalStorage
from hermes.quiver.storage._location import locate
from hermes.quiver.storage._objects import ObjectStorage

__all__ = ("CONFIG", "Entry", "Storage", "open_storage")


def open_storage(
    root: str | os.PathLike[str], options: Mapping[str, Any]
) -> Storage:
    """Open the storage that a repository's root names.

    Args:
        root: A directory or a URL.
        options: Passed to the fsspec filesystem.

    Raises:
        RepositoryNotFound: If there is and can be no repository.
        MissingExtra: If the extra for such a URL is not installed.
        StorageFailed: If the storage cannot be reached.
    """
    location = locate(root, options)
    kind = LocalStorage if location.protocol == "file" else ObjectStorage
    return kind(location)
