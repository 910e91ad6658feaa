"""Triton's configuration: every field, by name."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2 as pb

from hermes.quiver import ModelConfig, Platform, dtypes
from hermes.quiver.errors import DtypeMismatch, InvalidConfig

FIELDS = [field.name for field in pb.ModelConfig.DESCRIPTOR.fields]


def fill(message) -> None:
    """Give every field a value that is not its default."""
    for field in message.DESCRIPTOR.fields:
        current = getattr(message, field.name)
        entry = field.message_type
        if entry and entry.GetOptions().map_entry:
            key, value = map(entry.fields_by_name.get, ("key", "value"))
            if value.message_type:
                fill(current[sample(key)])
            else:
                current[sample(key)] = sample(value)
        elif hasattr(current, "add"):
            for _ in range(2):
                fill(current.add())
        elif entry:
            fill(current)
            current.SetInParent()
        elif hasattr(current, "extend"):
            current.extend([sample(field), sample(field)])
        else:
            setattr(message, field.name, sample(field))


def sample(field):
    if field.enum_type:
        return field.enum_type.values[-1].number
    if field.cpp_type == field.CPPTYPE_STRING:
        is_text = field.type == field.TYPE_STRING
        return 'a "b"\n' if is_text else b"\x00"
    return True if field.cpp_type == field.CPPTYPE_BOOL else 3


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig("mean", Platform.ONNX)


@pytest.fixture(scope="module")
def full():
    message = pb.ModelConfig()
    fill(message)
    return message


def test_the_whole_message_survives_its_text(full) -> None:
    config = ModelConfig.parse("")
    for name in FIELDS:
        if full.DESCRIPTOR.fields_by_name[name].containing_oneof is None:
            setattr(config, name, getattr(full, name))
    again = ModelConfig.parse(str(config))
    assert again == config == again.copy()
    assert {*again.to_dict()} == {
        name
        for name in FIELDS
        if full.DESCRIPTOR.fields_by_name[name].containing_oneof is None
    }


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_is_kept_and_written(config, full, name) -> None:
    single = pb.ModelConfig()
    field = full.DESCRIPTOR.fields_by_name[name]
    if field.containing_oneof:
        fill(getattr(single, name))
        value = getattr(single, name)
    else:
        value = getattr(full, name)
    setattr(config, name, value)
    assert getattr(config, name) == value
    assert getattr(ModelConfig.parse(str(config)), name) == value
    as_dict = config.to_dict()[name]
    again = ModelConfig("mean", Platform.ONNX)
    setattr(again, name, as_dict)
    assert getattr(again, name) == value


def test_an_assignment_that_is_refused_changes_nothing(config) -> None:
    config.add_input("x", [2])
    config.add_instance_group(count=2)
    before = config.copy()
    for name, value in {
        "max_batch_size": "eight",
        "input": [{"name": "y"}, {"shape": [2]}],
        "instance_group": 3,
        "dynamic_batching": {"delay": 5},
        "platform": 7,
    }.items():
        with pytest.raises(InvalidConfig, match=f"^{name} cannot be "):
            setattr(config, name, value)
    assert config == before


@pytest.mark.parametrize("name", pb.DataType.keys()[1:])
def test_every_data_type_has_a_numpy_dtype(config, name) -> None:
    config.add_input("x", [None, 2], dtypes.from_triton(name))
    assert pb.DataType.Name(config.input[0].data_type) == name
    shape, dtype = config.shapes("input")["x"]
    assert (shape, dtypes.to_triton(dtype)) == ((None, 2), name)


def test_what_is_no_dtype_or_shape_is_said(config) -> None:
    with pytest.raises(DtypeMismatch, match="'flaot32' is no dtype"):
        config.add_input("x", [2], "flaot32")
    with pytest.raises(DtypeMismatch, match="no data type for numpy's compl"):
        config.add_input("x", [2], np.complex64)
    for shape in ([0], [-2], [1.5], ["a"]):
        with pytest.raises(InvalidConfig, match="is no size; give whole"):
            config.add_input("x", shape)
    assert not config.input


def test_a_configuration_of_no_model_is_not_written(config) -> None:
    with pytest.raises(InvalidConfig, match="belongs to no model"):
        config.write()


def test_dynamic_batching_is_set(config) -> None:
    config.set_dynamic_batching(preserve_ordering=True)
    with pytest.raises(InvalidConfig, match="no batch axis"):
        config.set_dynamic_batching(100)
    config.max_batch_size = 8
    with pytest.raises(InvalidConfig, match="set max_batch_size first"):
        config.set_dynamic_batching(preferred_batch_size=[4, 16])
    config.set_dynamic_batching(100, [4, 8], preserve_ordering=True)
    assert config.to_dict()["dynamic_batching"] == {
        "max_queue_delay_microseconds": "100",
        "preferred_batch_size": [4, 8],
        "preserve_ordering": True,
    }


def test_sequence_batching_is_set(config) -> None:
    with pytest.raises(InvalidConfig, match="neither 'direct' nor 'oldest'"):
        config.set_sequence_batching("newest")
    config.add_state("state_in", "state_out", [1, 2])
    config.set_sequence_batching("oldest", 5, max_candidate_sequences=4)
    config.add_control_input("start", "start")
    config.add_control_input("id", "corrid", np.uint64)
    batching = config.sequence_batching
    assert batching.WhichOneof("strategy_choice") == "oldest"
    assert batching.oldest.max_candidate_sequences == 4
    assert len(batching.state) == 1
    start, corrid = (c.control[0] for c in batching.control_input)
    assert list(start.int32_false_true) == [0, 1]
    assert corrid.data_type == pb.TYPE_UINT64
    config.set_sequence_batching()
    assert batching.WhichOneof("strategy_choice") == "direct"
    for kind, dtype in (("begin", "int32"), ("end", "uint8")):
        with pytest.raises(InvalidConfig, match="the kinds are corrid, end"):
            config.add_control_input("x", kind, dtype)


def test_a_second_scheduling_is_refused(config) -> None:
    config.max_batch_size = 2
    config.set_sequence_batching()
    with pytest.raises(InvalidConfig, match="has sequence_batching, and"):
        config.set_dynamic_batching()
    config.ClearField("sequence_batching")
    config.set_dynamic_batching()


def test_warm_up_sends_the_declared_inputs(config) -> None:
    config.add_input("x", [None, 2, 16])
    config.add_input("n", [1], np.int64)
    for shapes in (None, {"x": [1, 2, 16], "z": [1]}):
        with pytest.raises(InvalidConfig, match="needs fixed dims"):
            config.add_warmup(shapes=shapes)
    config.add_warmup(shapes={"x": [1, 2, 16]}, count=3)
    (warmup,) = config.model_warmup
    assert warmup.count == 3
    assert list(warmup.inputs["x"].dims) == [1, 2, 16]
    assert warmup.inputs["n"].data_type == pb.TYPE_INT64


def test_the_version_policy_is_chosen(config) -> None:
    config.set_version_policy(latest=2)
    assert config.version_policy.latest.num_versions == 2
    config.set_version_policy(specific=[1, 4])
    assert list(config.version_policy.specific.versions) == [1, 4]
    config.set_version_policy()
    assert config.version_policy.WhichOneof("policy_choice") == "all"
    for wrong in ({"latest": 0}, {"latest": 1, "specific": [1]}):
        with pytest.raises(InvalidConfig, match="give one of them"):
            config.set_version_policy(**wrong)
