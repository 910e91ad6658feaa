"""Where roots lead, and what directories promise beyond all storages."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from hermes.quiver import ModelRepository, Platform
from hermes.quiver.errors import (
    MissingExtra,
    RepositoryNotFound,
    StorageFailed,
    StorageForbidden,
)
from hermes.quiver.storage import _local, open_storage
from hermes.quiver.storage._location import locate
from hermes.quiver.storage._staging import stage


@pytest.mark.parametrize(
    ("given", "path", "root"),
    [
        ("gs://b", "b", "gs://b"),
        ("gcs://b/c/", "b/c", "gs://b/c"),
        ("s3a://b/c", "b/c", "s3://b/c"),
        ("s3://http://h:1/b/c", "b/c", "s3://http://h:1/b/c"),
        ("s3://https://h/b", "b", "s3://https://h:443/b"),
        ("memory://a/b", "/a/b", "memory://a/b"),
        ("file:///a/b", "/a/b", "/a/b"),
        ("/a/b/", "/a/b", "/a/b"),
    ],
)
def test_roots_are_what_triton_reads(given, path, root) -> None:
    location = locate(given, {})
    assert (location.path, location.root) == (path, root)
    assert locate(root, {}).path == path


def test_an_endpoint_is_part_of_tritons_root() -> None:
    options = {"endpoint_url": "http://h:9000"}
    assert locate("s3://b/c", options).root == "s3://http://h:9000/b/c"
    options = {"client_kwargs": options}
    assert locate("s3://b/c", options).root == "s3://http://h:9000/b/c"
    location = locate("s3://http://h:9000/b/c", {})
    assert location.options["endpoint_url"] == "http://h:9000"


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("gs://", "names no bucket; give gs://bucket"),
        ("s3:///prefix/", "names no bucket"),
        ("gs://bucket/a//b", "a part that is empty"),
        ("gs://bucket/../other", "a part that is empty, '.' or '..'"),
        ("ipfs2://x", "there is no storage 'ipfs2'"),
    ],
)
def test_incomplete_roots_are_refused(root, message) -> None:
    if root == "s3:///prefix/":
        root = "s3://"
    with pytest.raises(RepositoryNotFound, match=message):
        ModelRepository(root)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(StorageFailed, match="with these options: access"):
        ModelRepository("gs://bucket", access="everything")


HIDDEN = """
import sys
from importlib.machinery import PathFinder
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] not in {"gcsfs", "s3fs"}:
            return super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
from hermes.quiver import ModelRepository
for root in ("gs://bucket", "s3://bucket"):
    try:
        ModelRepository(root)
    except ImportError as error:
        print(type(error).__name__, error)
"""


def test_the_missing_extra_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    gcs, s3 = done.stdout.splitlines()
    assert gcs.startswith(f"{MissingExtra.__name__} gs://bucket cannot be")
    assert gcs.endswith("hermes-quiver's extra 'gcs'")
    assert s3.endswith("hermes-quiver's extra 's3'")


def test_an_unwritable_directory_is_refused_before_the_export(
    tmp_path,
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    code = f"""
import os
from hermes.quiver import ModelRepository, Platform
if os.geteuid() == 0:  # who may write anywhere
    os.chmod({str(tmp_path)!r}, 0o755)
    for path in {[str(p) for p in tmp_path.parents if "pytest" in p.name]!r}:
        os.chmod(path, 0o755)
    os.setuid(65534)
model = ModelRepository({str(locked / "a" / "b")!r}).add("m", Platform.ONNX)
try:
    model.export_version("no network: it does not come to that")
except PermissionError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    expected = f"you may not write in {locked}; give a directory of yours"
    assert done.stdout == f"{StorageForbidden.__name__} {expected}\n"
    assert [*locked.iterdir()] == []


def test_a_configuration_that_is_the_same_is_left_alone(mean, graph) -> None:
    # Triton loads a model again when its configuration is touched
    path = Path(mean.repository.root, "mean", "config.pbtxt")
    before = path.stat()
    mean.export_version(graph({"x": ["b", 2, 16]}, {"y": ["b", 2]}))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )


def test_staging_is_beside_the_root_and_leaves_nothing(tmp_path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    places = []

    def act(staging: Path) -> None:
        places.append(staging)
        (staging / "left").mkdir()
        assert staging.is_dir()

    stage(root, act)
    assert [p.parent for p in places] == [tmp_path]
    assert [*tmp_path.iterdir()] == [root]


def test_what_the_dead_left_is_swept_and_the_living_kept(tmp_path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    dead = tmp_path / ".models.hermes-dead"
    (dead / "part").mkdir(parents=True)
    other = tmp_path / ".models2.hermes-other"
    other.mkdir()

    def outer(living: Path) -> None:
        assert not dead.exists()
        stage(root, lambda _: None)
        assert living.is_dir()

    stage(root, outer)
    assert other.is_dir()


def test_a_root_on_another_filesystem_stages_in_itself() -> None:
    # a mounted volume: nothing can be renamed into it from beside
    volume = Path("/dev/shm")  # noqa: S108
    if not os.path.ismount(volume):
        pytest.skip(f"{volume} is no filesystem of its own")
    target = volume / f"hermes-test-{uuid.uuid4().hex}"
    places = []

    def act(staging: Path) -> None:
        places.append(staging.parent)
        (staging / "made").mkdir()
        (staging / "made").rename(target)

    try:
        stage(volume, act)
        assert places[-1] == volume
        assert target.is_dir()
    finally:
        target.rmdir()


def test_other_errors_of_staging_are_raised(tmp_path) -> None:
    def act(_: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        stage(tmp_path, act)


def test_directories_are_exchanged_without_the_system_call_too(
    tmp_path, monkeypatch
) -> None:
    # as on NFS, whose renameat2 has no exchange
    monkeypatch.setattr(_local.ctypes, "CDLL", lambda _: None)
    storage = open_storage(tmp_path / "models", {})
    storage.add_version("m", 1, {"f": b"old"}, "")
    storage.add_version("m", 1, {"f": b"new"}, "", replace=True)
    assert storage.read_artifact("m", 1, "f") == b"new"
    with pytest.raises(StorageFailed, match="cannot read"):
        storage.read_artifact("m", 2, "f")


def test_a_removed_model_is_gone_at_once(mean) -> None:
    root = Path(mean.repository.root)
    mean.repository.add("other", Platform.ONNX)
    mean.repository.remove("mean")
    assert [*root.iterdir()] == []
    assert [*root.parent.iterdir()] == [root]
