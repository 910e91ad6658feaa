"""Names that are on the disk, and not only in memory."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ("sync_folder",)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
