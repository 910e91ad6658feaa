"""Find a container image, and see whether it can be one of Triton's."""

import os
import platform
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from hermes.aeriel.errors import ImageNotFound, ImageUnusable

__all__ = ("IMAGE_ROOTS", "check_image", "find_image", "image_roots_of")

IMAGE_ROOTS = (
    "/cvmfs/singularity.opensciencegrid.org",
    "/cvmfs/singularity.opensciencegrid.org/ml4gw",
    "/cvmfs/unpacked.cern.ch",
)

# SIF's header: a launch script, the magic, a version, the architecture as two
# digits, and further on where the data begin and how many they are.
_MAGIC = slice(32, 41), b"SIF_MAGIC"
_SIF_ARCHITECTURE = slice(45, 47)
_SIF_DATA = struct.Struct("<qq"), 0x70
_SIF_CODES = {
    b"01": "386",
    b"02": "amd64",
    b"03": "arm",
    b"04": "arm64",
    b"05": "ppc64",
    b"06": "ppc64le",
    b"11": "s390x",
    b"12": "riscv64",
}
_SQUASHFS = b"hsqs"
_ELF_CODES = {3: "386", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64"}
_MACHINES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64"}
_SHELLS = ("usr/bin/bash", "bin/bash")


def image_roots_of(environ: Mapping[str, str]) -> Sequence[str]:
    """Return the folders of ``HERMES_IMAGE_ROOTS``, else the usual ones."""
    chosen = environ.get("HERMES_IMAGE_ROOTS")
    return IMAGE_ROOTS if chosen is None else chosen.split(os.pathsep)


def find_image(
    image: str | os.PathLike[str],
    roots: Sequence[str | os.PathLike[str]],
) -> Path:
    """Return the absolute path of an image.

    Args:
        image: Its path; a relative one is looked up in the working directory
            and then below each root, with and without ``.sif``.
        roots: Folders of images.

    Raises:
        ImageNotFound: If there is no such image.
    """
    text = os.fspath(image)
    if re.match(r"\w+://", text):
        raise ImageNotFound(
            f"image={text!r} is in a registry, serve() takes images of this "
            f"machine; get it with `hermes-serve pull {text}`"
        )
    places = [Path(), *map(Path, roots)] if text else []
    for place in places:
        for name in (text, f"{text}.sif"):
            found = (place / Path(name).expanduser()).absolute()
            if found.exists():
                return found
    looked = ", ".join(str(place.absolute()) for place in places)
    raise ImageNotFound(
        f"there is no image {text!r} in {looked or 'an empty path'}; give "
        "its path, set HERMES_IMAGE_ROOTS to the folders of your images, or "
        "get NVIDIA's with `hermes-serve pull`"
    )


def check_image(image: Path) -> None:
    """See whether a file or folder is an image that this machine can run.

    Only a look: what is inside a whole file is Apptainer's to find out.

    Raises:
        ImageUnusable: If it is none, or for another kind of machine.
    """
    try:
        found = _check_folder(image) if image.is_dir() else _check_file(image)
    except OSError as error:
        raise ImageUnusable(f"image {image} cannot be read: {error}") from None
    here = _MACHINES.get(platform.machine(), platform.machine())
    if found not in (None, here):
        raise ImageUnusable(
            f"image {image} is for machines of architecture {found}, this one "
            f"is {here}; get one that is for {here}"
        )


def _check_file(image: Path) -> str | None:
    """Return the architecture of an image in a file, if that tells it."""
    size = image.stat().st_size
    with image.open("rb") as file:
        header = file.read(128)
    where, magic = _MAGIC
    if header.startswith(_SQUASHFS):
        return None
    if header[where] != magic or len(header) < 128:
        raise ImageUnusable(
            f"image {image} is neither a SIF file nor a sandbox folder; get "
            "one with `hermes-serve pull`"
        )
    layout, offset = _SIF_DATA
    begin, length = layout.unpack_from(header, offset)
    if size < begin + length:
        raise ImageUnusable(
            f"image {image} is damaged: it has {size} bytes of "
            f"{begin + length}; copy or pull it again"
        )
    return _SIF_CODES.get(header[_SIF_ARCHITECTURE])


def _check_folder(image: Path) -> str | None:
    """Return the architecture of an image in a folder, if that tells it."""
    shells = [image / name for name in _SHELLS]
    if not any(map(os.path.lexists, shells)):
        raise ImageUnusable(
            f"image {image} is a folder, but holds no container: there is no "
            "/bin/bash in it"
        )
    for shell in shells:
        if shell.is_file():
            with shell.open("rb") as file:
                header = file.read(20)
            if header[:4] == b"\x7fELF":
                return _ELF_CODES.get(struct.unpack_from("<H", header, 18)[0])
    return None
