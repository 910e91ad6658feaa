"""Check the built wheels: what is in them, and each one alone.

A wheel may lean on its siblings without anybody noticing, because the
workspace has them all installed. So each is installed into an environment of
its own, where its packages are imported.
"""

import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

MEMBERS = Path(__file__).parent.parent / "hermes"
IMPORT_PACKAGES = """
import hermes.{name} as top, importlib, pkgutil
for module in pkgutil.iter_modules(top.__path__, top.__name__ + "."):
    if module.ispkg:
        importlib.import_module(module.name)
"""


def content_faults(wheel: Path, name: str) -> Iterator[str]:
    """Yield what is wrong with the files of a wheel."""
    source = MEMBERS / f"hermes.{name}" / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with ZipFile(wheel) as archive:
        packed = archive.namelist()
        (metadata,) = (path for path in packed if path.endswith("/METADATA"))
        if b"file://" in archive.read(metadata):
            yield "its metadata holds a path"
    files = {path for path in packed if ".dist-info/" not in path}
    if "hermes/__init__.py" in files:
        yield "hermes/__init__.py would hide the other libraries"
    if f"hermes/{name}/py.typed" not in files:
        yield "no py.typed"
    yield from (f"no {path}" for path in sorted(expected - files))
    yield from (f"{path} is not in src" for path in sorted(files - expected))


def import_faults(wheel: Path, name: str) -> Iterator[str]:
    """Yield what goes wrong with a wheel that has no siblings around it."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        for command in (
            ["-m", "pip", "install", "--quiet", str(wheel)],
            ["-I", "-c", IMPORT_PACKAGES.format(name=name)],
        ):
            if subprocess.run([python, *command], check=False).returncode:
                yield f"failed alone: {command[-1].strip()}"
                return


def main(dist: Path) -> int:
    """Print all faults of the wheels and return the exit status."""
    found = 0
    for member in sorted(MEMBERS.glob("hermes.*")):
        name = member.name.removeprefix("hermes.")
        (wheel,) = dist.glob(f"hermes_{name}-*.whl")
        faults = [*content_faults(wheel, name), *import_faults(wheel, name)]
        print(f"{wheel.name}: {'; '.join(faults) or 'good'}", flush=True)
        found += len(faults)
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
