"""What every storage promises, and what each one does beyond it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from hermes.quiver import ModelRepository, Platform
from hermes.quiver.errors import (
    InvalidConfig,
    ModelExists,
    RepositoryNotFound,
    StorageFailed,
    StorageForbidden,
    VersionExists,
)
from hermes.quiver.storage import open_storage

BUCKET = "hermes-tests"
KEYS = {"key": "test", "secret": "test"}


@dataclass
class Place:
    """An empty root, and a way to it that does not pass through quiver."""

    root: str
    path: str
    fs: Any
    options: dict = field(default_factory=dict)

    def open(self, **options) -> ModelRepository:
        return ModelRepository(self.root, **options, **self.options)

    def files(self) -> dict[str, bytes]:
        start = len(self.path) + 1
        try:
            found = self.fs.find(self.path)
        except FileNotFoundError:
            return {}
        return {name[start:]: self.fs.cat_file(name) for name in found}

    def put(self, name: str, content: bytes) -> None:
        if "file" in self.fs.protocol:
            Path(self.path, name).parent.mkdir(parents=True, exist_ok=True)
        self.fs.pipe_file(f"{self.path}/{name}", content)


def filesystem(protocol: str, options: dict):
    """A filesystem that makes the bucket, and remembers no listings."""
    fs = fsspec.filesystem(protocol, use_listings_cache=False, **options)
    if not fs.exists(BUCKET):
        fs.mkdir(BUCKET)
    return fs


@pytest.fixture(params=["local", "memory", "gs", "s3"])
def place(request, tmp_path) -> Place:
    unique = f"runs/{uuid.uuid4().hex}"
    if request.param == "local":
        fs = fsspec.filesystem("file")
        path = str(tmp_path / "models")
        return Place(path, path, fs)
    if request.param == "memory":
        fs = fsspec.filesystem("memory")
        return Place(f"memory://{unique}", f"/{unique}", fs)
    emulator = {"gs": "gcs_emulator", "s3": "s3_emulator"}[request.param]
    options = {"endpoint_url": request.getfixturevalue(emulator)}
    options |= KEYS if request.param == "s3" else {"token": "anon"}
    path = f"{BUCKET}/{unique}"
    fs = filesystem(request.param, options)
    return Place(f"{request.param}://{path}", path, fs, options)


@pytest.fixture
def network(graph):
    return graph({"x": ["b", 2, 16]}, {"y": ["b", 2]})


def add(repository: ModelRepository, name: str, network):
    model = repository.add(name, Platform.ONNX)
    model.export_version(network)
    return model


MEAN = {"mean/config.pbtxt", "mean/1/model.onnx"}


def test_what_is_exported_is_found_again(place, network) -> None:
    repository = place.open()
    model = repository.add("mean", Platform.ONNX)
    assert place.files() == {}

    address = model.export_version(network)

    assert address == f"{repository.root}/mean/1/model.onnx"
    assert {*place.files()} == MEAN
    found = ModelRepository(repository.root, **place.options).models["mean"]
    assert found.config == model.config
    assert found.problem is None
    assert found.versions == [1]
    assert found.read_version() == network.SerializeToString()


def test_an_assignment_is_written_when_asked(place, network) -> None:
    config = add(place.open(), "mean", network).config
    config.max_batch_size = 4
    assert place.open().models["mean"].config.max_batch_size == 0
    config.write()
    assert place.open().models["mean"].config.max_batch_size == 4


def test_a_version_is_only_replaced_by_force(place, network) -> None:
    model = add(place.open(), "mean", network)
    network.doc_string = "another"
    with pytest.raises(VersionExists, match="force=True to replace"):
        model.export_version(network, version=1)
    assert place.files()["mean/1/model.onnx"] != network.SerializeToString()

    model.export_version(network, version=1, force=True)
    model.export_version(network, version=3, force=True)

    assert place.files()["mean/1/model.onnx"] == network.SerializeToString()
    assert model.versions == [1, 3]


def test_a_replaced_version_keeps_nothing_of_the_old(place) -> None:
    storage = open_storage(place.root, place.options)
    old = {
        "model.savedmodel/saved_model.pb": b"1",
        "model.savedmodel/v/x": b"",
    }
    storage.add_version("m", 1, old, "")
    new = {"model.savedmodel/saved_model.pb": b"2"}
    storage.add_version("m", 1, new, 'name: "m"', replace=True)
    assert place.files() == {
        "m/config.pbtxt": b'name: "m"',
        "m/1/model.savedmodel/saved_model.pb": b"2",
    }


def test_the_number_that_somebody_took_is_passed_over(place) -> None:
    storage = open_storage(place.root, place.options)
    storage.add_version("m", 1, {"model.onnx": b"theirs"}, "")
    with pytest.raises(VersionExists, match=r"exists\s+already"):
        storage.publish("m", 1, {"model.onnx": b"ours"}, "")
    assert storage.publish("m", None, {"model.onnx": b"ours"}, "") == 2
    assert place.files()["m/1/model.onnx"] == b"theirs"


def test_exporters_at_the_same_time_get_different_versions(place) -> None:
    storages = [open_storage(place.root, place.options) for _ in range(4)]
    start = threading.Barrier(len(storages))

    def export(number: int) -> list[tuple[int, bytes]]:
        start.wait()
        mine = b"%d" % number
        return [
            (storages[number].publish("m", None, {"f": mine}, ""), mine)
            for _ in range(3)
        ]

    with ThreadPoolExecutor(len(storages)) as pool:
        done = [*chain(*pool.map(export, range(len(storages))))]

    assert sorted(version for version, _ in done) == [*range(1, 13)]
    files = place.files()
    assert all(files[f"m/{version}/f"] == mine for version, mine in done)


EXPORTER = """
import json, sys
from hermes.quiver.storage import open_storage
storage = open_storage(sys.argv[1], json.loads(sys.argv[2]))
sys.stdin.readline()
files = {"model.onnx": sys.argv[3].encode()}
print(*[storage.publish("m", None, files, "") for _ in range(5)])
"""


def test_processes_get_different_versions(place) -> None:
    if place.fs.protocol == "memory":
        return  # which belongs to one process
    command = [sys.executable, "-c", EXPORTER, place.root]
    command += [json.dumps(place.options)]
    exporters = [
        subprocess.Popen(
            [*command, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for exporter in exporters:
        exporter.stdin.write("\n")
        exporter.stdin.flush()
    outputs = [exporter.communicate(timeout=60)[0] for exporter in exporters]
    versions = [[int(v) for v in output.split()] for output in outputs]
    assert sorted(versions[0] + versions[1]) == [*range(1, 11)]
    files = place.files()
    for number, own in enumerate(versions):
        assert {files[f"m/{v}/model.onnx"] for v in own} == {b"%d" % number}


STRANGERS = {
    "mean.txt": b"mine",
    "means/x.npy": b"mine",
    "data/2024/strain.h5": b"mine",
    ".hidden/config.pbtxt": b"mine",
}


def test_nothing_is_removed_but_what_is_named(place, network) -> None:
    repository = place.open()
    for name in ("mean", "mean-2", "mean2", "me"):
        add(repository, name, network)
    for name, content in STRANGERS.items():
        place.put(name, content)
    place.put("mean-2/labels.txt", b"mine")
    kept = {n: c for n, c in place.files().items() if n not in MEAN}

    repository.remove("mean")

    assert place.files() == kept
    assert [*repository.models] == ["mean-2", "mean2", "me"]


@pytest.mark.parametrize("act", ["clean", "delete"])
def test_strangers_survive(place, network, act) -> None:
    repository = place.open()
    add(repository, "mean", network)
    for name, content in STRANGERS.items():
        place.put(name, content)
    if act == "clean":
        assert place.open(clean=True).models == {}
    else:
        place.open().delete()
    assert place.files() == STRANGERS
    with pytest.raises(ModelExists, match="'data' that is no model"):
        place.open().add("data", Platform.ONNX, force=True)


def test_an_emptied_repository_can_be_used_again(place, network) -> None:
    repository = place.open()
    add(repository, "mean", network)
    repository.delete()
    assert place.files() == {}
    add(repository, "mean", network)
    assert {*place.files()} == MEAN


BROKEN = {
    "garbage": b"{{{",
    "truncated": b'name: "truncated',
    "binary": b"\x00\xff\xfe\x80",
    "misnamed": b'name: "another"',
    "wrong-type": b'max_batch_size: "eight"',
    "no-such-value": b"input { data_type: TYPE_FP7 }",
    "from-the-future": b'backend: "jax" quantum: true max_batch_size: 2',
    "json": b'{"name": "json"}',
    "nested": b"ensemble_scheduling { step {" * 200,
}


def test_broken_configurations_are_said_not_raised(place, network) -> None:
    for name, content in BROKEN.items():
        place.put(f"{name}/config.pbtxt", content)
        place.put(f"{name}/1/model.onnx", b"")
    add(place.open(), "mean", network)

    repository = place.open()

    problems = {n: m.problem for n, m in repository.models.items()}
    assert {n for n, problem in problems.items() if problem} == {*BROKEN}
    assert problems["mean"] is None
    assert "says name: 'another'" in problems["misnamed"]
    assert "line 1:" in problems["garbage"]
    assert "is no text" in problems["binary"]
    future = repository.models["from-the-future"]
    assert "quantum" in future.problem
    assert "quantum" in repr(future)
    assert (future.platform, future.config.max_batch_size) == ("jax", 2)
    assert future.versions == [1]


def test_a_broken_configuration_is_not_overwritten(place, network) -> None:
    place.put("mean/config.pbtxt", b"name: ")
    model = place.open().models["mean"]
    with pytest.raises(InvalidConfig, match="not understood: config"):
        model.export_version(network)
    with pytest.raises(InvalidConfig, match="would be overwritten"):
        model.config.write()
    assert place.files() == {"mean/config.pbtxt": b"name: "}

    add(place.open(), "other", network)
    model = place.open().add("mean", Platform.ONNX, force=True)
    model.export_version(network)
    assert place.open().models["mean"].problem is None


def test_models_are_listed_with_what_is_known(place) -> None:
    place.put("backend/config.pbtxt", b'backend: "python"')
    place.put("unknown/config.pbtxt", b'platform: "jax_savedmodel"')
    place.put("bare/3/model.onnx", b"")
    place.put("stranger/3/model.onnx", b"")
    place.put("plan/1/model.plan", b"")
    place.put("labels/config.pbtxt", b"")
    place.put("empty-version/1/notes.txt", b"")

    models = place.open().models

    assert {name: str(m.platform) for name, m in models.items()} == {
        "backend": "python",
        "bare": "onnxruntime_onnx",
        "labels": "",
        "plan": models["plan"].platform,
        "stranger": "onnxruntime_onnx",
        "unknown": "jax_savedmodel",
    }
    assert models["bare"].versions == [3]
    assert models["bare"].inputs == {}
    assert all(m.problem is None for m in models.values())


def test_an_export_that_was_cut_short_can_be_completed(place, network) -> None:
    # as a process leaves it that was killed between artifact and config
    place.put("mean/1/model.onnx", network.SerializeToString())
    model = place.open().models["mean"]
    assert model.platform is Platform.ONNX
    model.export_version(network, version=1, force=True)
    assert {*place.files()} == MEAN
    assert place.open().models["mean"].inputs["x"].shape == (None, 2, 16)


class Faulty(MemoryFileSystem):
    """Fails once, at the operation that was chosen."""

    protocol = "faulty"
    store: dict = {}  # noqa: RUF012  # as that of its base class
    pseudo_dirs = [""]  # noqa: RUF012
    countdown = -1
    error: Callable[[], Exception] = OSError
    after = False

    def pipe_file(self, path, value, mode="overwrite"):
        self.operate(lambda: super(Faulty, self).pipe_file(path, value, mode))

    def rm_file(self, path):
        self.operate(lambda: super(Faulty, self).rm_file(path))

    def operate(self, action: Callable[[], None]) -> None:
        cls = type(self)
        cls.countdown -= 1
        if cls.countdown != 0:
            action()
            return
        if cls.after:  # done, but the answer is lost
            action()
        raise cls.error()


@pytest.fixture
def faulty():
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    Faulty.store.clear()
    Faulty.countdown, Faulty.error, Faulty.after = -1, OSError, False
    return Faulty


def contents(fs) -> dict[str, bytes]:
    return {path: file.getvalue() for path, file in fs.store.items()}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_at_any_step_is_undone(
    faulty, after, replace, error
) -> None:
    storage = open_storage("faulty://repository", {})
    files = {"a": b"1", "b/c": b"2", "b/d": b"3"}
    storage.add_version("m", 1, {"a": b"old", "gone": b"old"}, "old")
    before = contents(faulty)
    version = 1 if replace else 2
    faulty.error, faulty.after = error, after
    expected = StorageFailed if error is OSError else KeyboardInterrupt

    steps = 0
    while True:
        steps += 1
        faulty.countdown = steps
        try:
            storage.add_version("m", version, files, "new", replace=replace)
        except expected:
            assert contents(faulty) == before
        else:
            break

    assert steps == (6 if replace else 5)
    assert storage.versions("m") == sorted({1, version})
    assert contents(faulty)["/repository/m/config.pbtxt"] == b"new"


def test_a_failed_export_changes_no_memory_and_can_be_retried(
    faulty, network
) -> None:
    model = ModelRepository("faulty://repository").add("mean", Platform.ONNX)
    faulty.countdown = 2
    with pytest.raises(StorageFailed, match="cannot write version 1 of"):
        model.export_version(network)
    assert model.inputs == {}
    assert faulty.store == {}
    model.export_version(network)
    assert model.versions == [1]


class Unauthorized(Exception):
    """As gcsfs has it."""

    code = "401"


@pytest.mark.parametrize("error", [PermissionError, Unauthorized])
def test_a_refusal_is_an_error_of_permission(faulty, network, error) -> None:
    model = ModelRepository("faulty://repository").add("mean", Platform.ONNX)
    faulty.countdown, faulty.error = 1, error
    with pytest.raises(StorageForbidden, match="you have no permission"):
        model.export_version(network)
    assert faulty.store == {}


@pytest.mark.parametrize("protocol", ["gs", "s3"])
def test_buckets_that_refuse_are_named(request, network, protocol) -> None:
    emulator = {"gs": "gcs_emulator", "s3": "s3_emulator"}[protocol]
    options = {"endpoint_url": request.getfixturevalue(emulator)}
    options |= KEYS if protocol == "s3" else {"token": "anon"}
    fs = filesystem(protocol, options)

    for missing in ("no-such-bucket", "no-such-bucket/prefix"):
        with pytest.raises(RepositoryNotFound, match="no bucket 'no-such-b"):
            ModelRepository(f"{protocol}://{missing}", **options)
    fs.mkdir("readonly-bucket")
    repository = ModelRepository(f"{protocol}://readonly-bucket/a", **options)
    with pytest.raises(StorageFailed, match="cannot write version 1 of"):
        add(repository, "mean", network)
    assert fs.ls("readonly-bucket") == []
    # a whole bucket as a root, and a repository beside another
    bucket = f"whole-{uuid.uuid4().hex}"
    fs.mkdir(bucket)
    whole = ModelRepository(f"{protocol}://{bucket}", **options)
    add(whole, "mean", network)
    whole.delete()
    assert fs.exists(bucket)


def test_opening_a_bucket_reads_each_configuration_once(
    gcs_emulator,
) -> None:
    options = {"endpoint_url": gcs_emulator, "token": "anon"}
    fs = filesystem("gs", options)
    root = f"{BUCKET}/runs/{uuid.uuid4().hex}"
    names = [f"{root}/m{number}/config.pbtxt" for number in range(230)]
    fs.pipe(dict.fromkeys(names, b'backend: "x"'))

    def requests() -> list[str]:
        url = f"{gcs_emulator}/requests"
        with urllib.request.urlopen(url) as answer:  # noqa: S310
            return json.load(answer)

    requests()
    repository = ModelRepository(f"gs://{root}", **options)
    asked = requests()
    assert len(repository.models) == 230
    reads = [r for r in asked if "config.pbtxt" in r]
    pages = [r for r in asked if "maxResults" in r]
    assert (len(pages), len(reads), len(asked)) == (3, 230, 233)
