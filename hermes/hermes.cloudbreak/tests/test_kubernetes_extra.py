"""What can be done without the extra `kubernetes`, and what is said else."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = "import sys; sys.modules[{!r}] = None; import hermes.cloudbreak.{}"


def run(missing: str, module: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing, module)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("missing", "module"),
    [("kubernetes", "clouds.kubeconfig"), ("yaml", "manifest_files")],
)
def test_what_needs_the_extra_names_it(missing, module) -> None:
    done = run(missing, module)
    assert "extra `kubernetes` of hermes-cloudbreak" in done.stderr


def test_who_may_have_to_empty_clusters_is_told_before_there_are_any() -> None:
    program = (
        "import sys; sys.modules['kubernetes'] = None\n"
        "from hermes.cloudbreak.clouds.google import GKECloud\n"
        "from google.auth.credentials import AnonymousCredentials\n"
        "GKECloud('p', credentials=AnonymousCredentials())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert "extra `kubernetes` of hermes-cloudbreak" in done.stderr


@pytest.mark.parametrize("module", ["manifests", "deployment", "reconciler"])
def test_what_is_pure_needs_no_extra(module) -> None:
    done = run("kubernetes", module)
    assert done.returncode == 0, done.stderr
