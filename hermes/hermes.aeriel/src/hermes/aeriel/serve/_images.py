"""Get images of containers, and see what is in them: spython's only user."""

import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hermes.aeriel.errors import ExtraMissing, ImagePullFailed, RuntimeMissing

__all__ = ("DEFINITION", "SOURCE", "build_image", "labels_of", "pull_image")

# NVIDIA's image of the release that the local runtime has, too.
SOURCE = "docker://nvcr.io/nvidia/tritonserver:24.10-py3"
DEFINITION = Path(__file__).parent / "images" / "triton.def"

_ADDRESS = re.compile(r"(docker|oras|library|shub|https)://\S")
_TOLD = 5


def pull_image(
    source: str,
    target: Path,
    report: Callable[[str], None],
    *,
    force: bool = False,
) -> Path:
    """Download an image from a registry into a file.

    Args:
        source: Its address, such as ``docker://nvcr.io/nvidia/...``.
        target: The file.
        report: Called with every line that Singularity writes.
        force: Replace a file that is there.

    Raises:
        ExtraMissing: If the extra ``serve`` is not installed.
        RuntimeMissing: If there is no Singularity, or Apptainer.
        ImagePullFailed: If the image cannot be had.
    """
    _, stream = _spython()
    _check_target(target, force=force)
    if not _ADDRESS.match(source):
        raise ImagePullFailed(
            f"{source} is no address of an image; it must begin with "
            "docker://, oras://, library:// or https://"
        )
    options = ["--force"] if force else []
    command = ["singularity", "pull", *options, str(target), source]
    lines = stream(command, output_type="both")
    _follow(lines, report, f"could not pull {source}")
    return target


def build_image(
    definition: Path,
    target: Path,
    report: Callable[[str], None],
    *,
    sandbox: bool = False,
    force: bool = False,
) -> Path:
    """Build an image from a definition file.

    Args:
        definition: The file.
        target: The image's file, or folder.
        report: Called with every line that Singularity writes.
        sandbox: Build a folder instead of a file.
        force: Replace what is there.

    Raises:
        ExtraMissing: If the extra ``serve`` is not installed.
        RuntimeMissing: If there is no Singularity, or Apptainer.
        ImagePullFailed: If the image cannot be built.
    """
    _, stream = _spython()
    _check_target(target, force=force)
    options = [
        *(["--sandbox"] if sandbox else []),
        *(["--force"] if force else []),
    ]
    command = ["singularity", "build", *options, str(target), str(definition)]
    lines = stream(command, output_type="both")
    _follow(lines, report, f"could not build {definition}")
    return target


def labels_of(image: Path) -> dict[str, str]:
    """Return the labels of an image.

    Raises:
        ExtraMissing: If the extra ``serve`` is not installed.
        RuntimeMissing: If there is no Singularity, or Apptainer.
        ImagePullFailed: If it cannot be read.
    """
    client, _ = _spython()
    found = client.inspect(str(image), quiet=True)
    if "return_code" in found:
        told = " ".join("".join(found["message"]).split())
        raise ImagePullFailed(f"image {image} cannot be inspected: {told}")
    attributes = found.get("attributes") or found["data"]["attributes"]
    return dict(attributes.get("labels") or {})


def _spython() -> tuple[Any, Any]:
    try:
        from spython.main import get_client  # noqa: PLC0415
        from spython.utils import check_install, stream_command  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissing(
            "pulling and inspecting images needs spython; install "
            "hermes-aeriel with its extra serve"
        ) from error
    if not check_install():
        raise RuntimeMissing(
            "there is no singularity on PATH (Apptainer has it as another "
            "name of its own); load its module or install it"
        )
    return get_client(quiet=True), stream_command


def _check_target(target: Path, *, force: bool) -> None:
    if target.exists() and not force:
        raise ImagePullFailed(
            f"{target} is there already; remove it, use --force, or choose "
            "another with --output"
        )
    if not target.parent.is_dir():
        raise ImagePullFailed(
            f"{target} cannot be written: there is no folder {target.parent}"
        )


def _follow(
    lines: Iterable[str], report: Callable[[str], None], failed: str
) -> None:
    told: list[str] = []
    try:
        for line in lines:
            if line.strip():
                told.append(line.strip())
                report(line.rstrip())
    except subprocess.CalledProcessError as error:
        reason = "\n".join(told[-_TOLD:])
        raise ImagePullFailed(
            f"{failed} (exit code {error.returncode}); is its registry within "
            f"reach of this machine?\n{reason}"
        ) from error
