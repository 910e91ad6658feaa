"""The repository and what reaches the disk."""

import os
from pathlib import Path

import numpy as np
import pytest

from hermes.quiver import Ensemble, ModelConfig, ModelRepository, Platform
from hermes.quiver.errors import (
    InvalidConfig,
    InvalidName,
    ModelExists,
    ModelNotFound,
    RepositoryNotFound,
    StorageFailed,
    TensorNotFound,
    UnknownPlatform,
    VersionExists,
    VersionNotFound,
)


def files(root: Path) -> set[str]:
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file()
    }


def test_nothing_is_written_before_a_version_is_exported(
    tmp_path, repository
) -> None:
    repository.add("mean", Platform.ONNX)
    assert list(repository.models) == ["mean"]
    assert not (tmp_path / "repository").exists()


def test_a_version_is_the_artifact_and_the_configuration(mean) -> None:
    root = Path(mean.repository.root)
    assert files(root) == {"mean/config.pbtxt", "mean/1/model.onnx"}
    assert mean.versions == [1]
    assert mean.inputs["x"].shape == (None, 2, 16)
    assert mean.outputs["y"].dtype == np.float32


def test_the_next_version_is_the_highest_plus_one(mean, graph) -> None:
    again = graph({"x": ["b", 2, 16]}, {"y": ["b", 2]})
    assert mean.export_version(again, version=7).endswith("mean/7/model.onnx")
    assert mean.export_version(again).endswith("mean/8/model.onnx")
    assert mean.versions == [1, 7, 8]


def test_an_artifact_can_be_read_back(mean, graph) -> None:
    network = graph({"x": ["b", 2, 16]}, {"y": ["b", 2]})
    mean.export_version(network, version=4)
    assert mean.read_version() == network.SerializeToString()
    assert mean.read_version(1) == mean.read_version(4)
    with pytest.raises(VersionNotFound, match=r"has versions \[1, 4\], not 2"):
        mean.read_version(2)


def test_an_existing_version_is_not_overwritten(mean, graph) -> None:
    other = graph({"x": ["b", 2, 16]}, {"y": ["b", 2]})
    with pytest.raises(VersionExists, match="has a version 1 already"):
        mean.export_version(other, version=1)
    with pytest.raises(InvalidConfig, match="version='2' is no whole number"):
        mean.export_version(other, version="2")
    with pytest.raises(InvalidConfig, match="start at 1"):
        mean.export_version(other, version=0)


def test_a_version_that_another_process_took_is_refused(mean) -> None:
    # what `versions` says is stale as soon as somebody else exports
    storage = mean._storage
    with pytest.raises(VersionExists, match="exists already"):
        storage.add_version("mean", 1, {"model.onnx": b"other"}, "")
    assert files(Path(storage.root)) == {
        "mean/config.pbtxt",
        "mean/1/model.onnx",
    }
    assert storage.scan()[0].config == str(mean.config).encode()


def test_a_version_of_other_tensors_is_refused(mean, graph) -> None:
    before = files(Path(mean.repository.root)), str(mean.config)
    with pytest.raises(InvalidConfig, match=r"exported x float32\[None, 3"):
        mean.export_version(graph({"x": ["b", 3, 16]}, {"y": ["b", 3]}))
    with pytest.raises(InvalidConfig, match="outputs of this version"):
        mean.export_version(graph({"x": ["b", 2, 16]}, {"z": ["b", 2]}))
    assert (files(Path(mean.repository.root)), str(mean.config)) == before


def test_a_failed_write_leaves_nothing(repository, graph) -> None:
    model = repository.add("mean", Platform.ONNX)
    network = graph({"x": ["b", 2, 16]}, {"y": ["b", 2]})
    root = Path(repository.root)
    root.mkdir()
    # a directory where the configuration goes cannot be replaced by a file
    (root / "mean" / "config.pbtxt").mkdir(parents=True)

    with pytest.raises(StorageFailed, match=r"config\.pbtxt"):
        model.export_version(network)

    assert files(root) == set()
    assert not list(root.glob("mean/[.0-9]*"))
    assert not model.inputs

    (root / "mean" / "config.pbtxt").rmdir()
    model.export_version(network)
    assert files(root) == {"mean/config.pbtxt", "mean/1/model.onnx"}


def test_others_may_read_what_is_published(mean) -> None:
    root = Path(mean.repository.root)
    mask = os.umask(0)
    os.umask(mask)
    assert (root / "mean" / "1").stat().st_mode & 0o777 == 0o777 & ~mask


def test_opening_finds_the_models(mean) -> None:
    found = ModelRepository(mean.repository.root)
    assert list(found.models) == ["mean"]
    assert found.models["mean"].config == mean.config
    assert found.models["mean"].platform is Platform.ONNX


def test_opening_leaves_strangers_alone(mean) -> None:
    root = Path(mean.repository.root)
    (root / "notes.txt").write_text("mine")
    (root / "data").mkdir()
    (root / "data" / "x.npy").write_text("mine")

    repository = ModelRepository(root, clean=True)

    assert repository.models == {}
    assert files(root) == {"notes.txt", "data/x.npy"}
    repository.delete()
    assert files(root) == {"notes.txt", "data/x.npy"}


def test_delete_removes_an_empty_root(mean) -> None:
    mean.repository.delete()
    assert not Path(mean.repository.root).exists()


def test_removing_a_model_leaves_its_namesakes(mean, graph) -> None:
    sibling = mean.repository.add("mean-2", Platform.ONNX)
    sibling.export_version(graph({"x": ["b", 2, 16]}, {"y": ["b", 2]}))
    mean.repository.remove("mean")
    assert files(Path(mean.repository.root)) == {
        "mean-2/config.pbtxt",
        "mean-2/1/model.onnx",
    }
    missing = r"no model 'mean'; there are: 'mean-2'"
    with pytest.raises(ModelNotFound, match=missing):
        mean.repository.remove("mean")
    with pytest.raises(KeyError, match=missing):
        mean.repository.models["mean"]


def test_adding_a_model_twice_needs_force(mean) -> None:
    with pytest.raises(ModelExists, match=r"force=True .* clean=True"):
        mean.repository.add("mean", Platform.ONNX)
    replaced = mean.repository.add("mean", Platform.ENSEMBLE, force=True)
    assert isinstance(replaced, Ensemble)
    assert files(Path(mean.repository.root)) == set()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "-x"])
def test_names_that_triton_could_not_load_are_refused(
    repository, name
) -> None:
    with pytest.raises(InvalidName, match="cannot name a model"):
        repository.add(name, Platform.ONNX)


def test_an_unknown_platform_is_refused(repository) -> None:
    with pytest.raises(
        UnknownPlatform, match="not a valid Platform; there are"
    ):
        repository.add("mean", "tensorrt")


def test_a_file_is_no_repository(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryNotFound, match="is not a directory"):
        ModelRepository(tmp_path / "file")


def test_a_configuration_may_leave_its_name_to_the_directory(mean) -> None:
    path = Path(mean.repository.root) / "mean" / "config.pbtxt"
    path.write_text('backend: "python"')
    model = ModelRepository(mean.repository.root).models["mean"]
    assert model.config.name == "mean"
    assert model.platform == "python"


def test_what_is_assigned_to_a_configuration_is_kept(mean) -> None:
    config = mean.config
    config.optimization.graph.level = -1
    config.default_model_filename = "model.onnx"
    config.version_policy.specific.versions.append(1)
    config.add_instance_group(count=2, kind="cpu")
    config.scale_instance_group(3)
    mean.write_config()

    found = ModelRepository(mean.repository.root).models["mean"].config
    assert found == config
    assert found.optimization.graph.level == -1
    assert found.instance_group[0].count == 3
    assert list(found.version_policy.specific.versions) == [1]


def test_max_batch_size_hides_the_batch_axis(repository, graph) -> None:
    model = repository.add("mean", Platform.ONNX)
    model.config.max_batch_size = 8
    model.export_version(graph({"x": ["b", 2, 16]}, {"y": ["b", 2]}))
    assert list(model.config.input[0].dims) == [2, 16]
    assert model.inputs["x"].shape == (None, 2, 16)

    fixed = repository.add("fixed", Platform.ONNX)
    fixed.config.max_batch_size = 8
    with pytest.raises(InvalidConfig, match="needs a variable batch axis"):
        fixed.export_version(graph({"x": [4, 2, 16]}, {"y": [4, 2]}))


def test_unknown_fields_and_kinds_are_named() -> None:
    config = ModelConfig("mean", Platform.ONNX)
    with pytest.raises(AttributeError, match="no field 'max_batch'; it has"):
        config.max_batch = 8
    with pytest.raises(ValueError, match="kind='tpu' is none of"):
        config.add_instance_group(kind="tpu")
    with pytest.raises(ValueError, match="no instance group to scale"):
        config.scale_instance_group(2)


def test_composite_fields_can_be_assigned_whole() -> None:
    config = ModelConfig("mean", Platform.ONNX)
    other = ModelConfig("other", Platform.ONNX)
    other.add_input("x", [None, 2], np.int64)
    other.dynamic_batching.max_queue_delay_microseconds = 5
    other.parameters["a"].string_value = "b"
    other.metric_tags["k"] = "v"

    config.input = other.input
    config.dynamic_batching = other.dynamic_batching
    config.parameters = other.parameters
    config.metric_tags = {"k": "v"}

    assert config.input == other.input
    assert config.dynamic_batching.max_queue_delay_microseconds == 5
    assert config.to_dict()["parameters"] == {"a": {"string_value": "b"}}
    assert dict(config.metric_tags) == {"k": "v"}
    assert "max_batch_size" in dir(config)


@pytest.mark.parametrize("platform", Platform)
def test_every_platform_is_found_again(repository, platform) -> None:
    version = Path(repository.root) / "model" / "1"
    version.mkdir(parents=True)
    if platform is Platform.SAVEDMODEL:
        (version / platform.filename).mkdir()
        (version / platform.filename / "saved_model.pb").write_bytes(b"graph")
    else:
        (version / platform.filename).write_bytes(b"graph")
    repository.refresh()
    assert repository.models["model"].platform is platform
    config = repository.models["model"].config
    config.execute_on(platform)
    config.write()
    repository.refresh()
    model = repository.models["model"]
    assert (model.platform, model.versions) == (platform, [1])
    if platform is Platform.SAVEDMODEL:
        with pytest.raises(UnknownPlatform, match=r"directory, model\.saved"):
            model.read_version()
    else:
        assert model.read_version() == b"graph"


@pytest.mark.parametrize(
    ("backend", "platform"),
    [
        ("onnxruntime", Platform.ONNX),
        ("pytorch", Platform.TORCHSCRIPT),
        ("tensorrt", Platform.TENSORRT),
        ("tensorflow", Platform.SAVEDMODEL),
        ("dali", "dali"),
    ],
)
def test_the_backend_says_the_platform_too(mean, backend, platform) -> None:
    mean.config.platform = ""
    mean.config.backend = backend
    assert mean.platform == platform
    if platform == "dali":
        with pytest.raises(UnknownPlatform, match="executed by 'dali'"):
            mean.read_version()


def test_a_missing_tensor_names_those_there_are(mean) -> None:
    with pytest.raises(
        TensorNotFound, match="no input 'wrong'; there are: 'x"
    ):
        mean.inputs["wrong"]
    with pytest.raises(KeyError, match="'mean' has no output 'x'"):
        mean.outputs["x"]
    assert mean.inputs.get("wrong") is None
