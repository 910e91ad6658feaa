"""Run an emulated object store for tests: ``emulator.py gcs | s3``.

Prints its endpoint when it answers, and ends when its stdin does, so that
nothing is left behind by a test run that was killed. The emulators live in
environments of their own, made when they are first needed: what they depend
on fights with what Hermes does.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = {
    "gcs": ["gcp-storage-emulator==2026.7.19"],
    "s3": ["moto[s3,server]==5.2.5"],
}


def main() -> None:
    """Find or make the environment, and become the emulator."""
    if sys.argv[1:] not in [[kind] for kind in REQUIREMENTS]:
        sys.exit(__doc__)
    kind = sys.argv[1]
    python = environment(kind)
    script = Path(__file__).with_name(f"_{kind}_emulator.py")
    os.execv(python, [str(python), str(script)])  # noqa: S606


def environment(kind: str) -> Path:
    """Return the Python of the emulator's environment."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    tag = f"py{sys.version_info.major}.{sys.version_info.minor}"
    name = "-".join([*REQUIREMENTS[kind], tag]).replace("==", "-")
    home = Path(cache) / "hermes" / "emulators" / name
    home.parent.mkdir(parents=True, exist_ok=True)
    # Test runs start at the same time; the first one installs.
    with Path(f"{home}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "installed").exists():
            install(home, REQUIREMENTS[kind])
    return home / "bin" / "python"


def install(home: Path, requirements: list[str]) -> None:
    """Make the environment."""
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [*pip, *requirements],
    ):
        # stdout is for the endpoint
        done = subprocess.run(command, stdout=sys.stderr, check=False)
        if done.returncode:
            sys.exit(f"no emulator: {' '.join(command)} failed")
    (home / "installed").touch()


if __name__ == "__main__":
    main()
