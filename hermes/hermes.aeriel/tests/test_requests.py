"""From arrays to the tensors of a request; no server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.aeriel import dtypes
from hermes.aeriel.client._padding import batch_to_fill
from hermes.aeriel.client._requests import (
    Prepared,
    check_outputs,
    check_parameters,
    to_request,
    zeros,
)
from hermes.aeriel.errors import (
    InvalidRequest,
    ShapeMismatch,
)
from hermes.aeriel.specs import (
    ModelSpec,
    StreamInput,
    StreamOutput,
    StreamSpec,
    TensorSpec,
)


def tensor(
    *shape: int | None, name: str = "x", dtype: Any = "f4", **more: Any
) -> TensorSpec:
    return TensorSpec(name, shape, np.dtype(dtype), **more)


def model(*inputs: TensorSpec, **more: Any) -> ModelSpec:
    return ModelSpec(
        "model",
        None,
        {t.name: t for t in inputs},
        {"y": tensor(*inputs[0].shape[:1], name="y")},
        **more,
    )


def entry(
    name: str, tensors: dict[str, int | None], stride: int, batch: int
) -> StreamInput:
    return StreamInput(name, tensors, stride, stride * batch, 64, batch, 3)


def streaming(*entries: StreamInput, datatype: str = "FP32") -> ModelSpec:
    inputs, states = [], {}
    for e in entries:
        channels = sum(c or 1 for c in e.tensors.values())
        shape = 1, channels, e.update_size
        inputs.append(tensor(*shape, name=e.name, datatype=datatype))
        for name, c in e.tensors.items():
            shape = (1, e.update_size) if c is None else (1, c, e.update_size)
            states[name] = tensor(*shape, name=name, datatype=datatype)
    stream = StreamSpec(
        {e.name: e for e in entries}, {"y": StreamOutput("y", 3, 2)}, 2
    )
    return model(*inputs, states=states, stream=stream, is_stateful=True)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, "f4")


ONE = model(tensor(None))


# Names


def test_optional_inputs_may_be_left_out() -> None:
    spec = model(
        tensor(None, 2),
        tensor(None, 2, name="mask", optional=True),
        tensor(2, dtype=object, name="why", optional=True),
    )
    assert [*to_request(spec, ones(1, 2)).tensors] == ["x"]
    both = {"mask": ones(1, 2), "x": ones(1, 2)}
    assert [*to_request(spec, both).tensors] == ["x", "mask"]
    assert [*zeros(spec)] == ["x"]
    with pytest.raises(InvalidRequest, match="takes 'x', 'mask', 'why'; giv"):
        to_request(spec, {"mask": ones(1, 2)})


def test_the_smallest_request_has_the_dtypes_of_the_wire() -> None:
    spec = model(
        tensor(None, 2, datatype="BF16"),
        tensor(None, dtype=object, name="words"),
    )
    found = zeros(spec)
    assert found["x"].dtype == np.dtype("V2")
    assert found["x"].shape == (1, 2)
    assert found["words"].tolist() == [b""]
    again = to_request(spec, found).tensors
    assert [a.dtype for a in again.values()] == [np.dtype("V2"), object]


def test_several_inputs_need_names() -> None:
    spec = model(tensor(None), tensor(None, name="z"))
    with pytest.raises(InvalidRequest, match="give a dict with 'x', 'z'"):
        to_request(spec, ones(1))
    with pytest.raises(InvalidRequest, match="takes 'x', 'z'; given were 'a'"):
        to_request(spec, {"a": ones(1)})


def test_outputs_are_asked_for_by_name() -> None:
    spec = model(tensor(1))
    assert check_outputs(spec, ["y", "y"]) == ("y",)
    assert check_outputs(spec, "y") == ("y",)
    assert check_outputs(spec, ()) == ()
    with pytest.raises(InvalidRequest, match="no output 'z', 3; it has 'y'"):
        check_outputs(spec, ["y", "z", 3])


def test_parameters_are_what_the_wire_takes() -> None:
    given_ones = {
        "a": True,
        "b": -(2**63),
        "c": 2**64 - 1,
        "d": 0.5,
        "e": "x",
        "f": np.float32(0.5),
        "g": np.bool_(False),
        "priority": np.int8(1),
        "timeout": 0,
    }
    found = check_parameters(given_ones)
    assert found == given_ones
    assert {type(value) for value in found.values()} == {bool, int, float, str}
    assert check_parameters({}) == {}


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("a", None, "parameter 'a' is a NoneType; give a bool, int, float or"),
        ("a", b"x", "parameter 'a' is a bytes"),
        ("a", 2**64, "must be a whole number from -9223372036854775808 to"),
        ("a", -(2**63) - 1, "must be a whole number from"),
        ("priority", -1, "'priority' is -1; it must be a whole number from 0"),
        ("priority", "high", "'priority' is 'high'; it must be a whole numb"),
        ("timeout", True, "'timeout' is True; it must be a whole number"),
        ("sequence_id", 3, "'sequence_id' is Triton's own"),
        ("sequence_start", True, "'sequence_start' is Triton's own"),
        ("sequence_end", True, r"client\.sequence\(\) sets those"),
        ("headers", "x", "'headers' is Triton's own: take another name"),
        ("triton_x", 1, "'triton_x' is Triton's own"),
        ("", 1, "parameter '' has no name"),
        (3, 1, "parameter 3 has no name: its name must be a str"),
    ],
)
def test_other_parameters_are_refused(name, value, match) -> None:
    with pytest.raises(InvalidRequest, match=match):
        check_parameters({name: value})


# Batches


FIXED = model(tensor(4, 2), tensor(4, name="words", dtype=object))


@given(st.integers(1, 4))
def test_a_partial_batch_is_filled_up(rows) -> None:
    x = {"x": ones(rows, 2), "words": ["a"] * rows}
    found = to_request(FIXED, x)
    assert found.tensors["x"].shape == (4, 2)
    np.testing.assert_array_equal(found.tensors["x"].sum(1) == 2, filled(rows))
    assert [*found.tensors["words"]] == ["a"] * rows + [b""] * (4 - rows)
    expected = (None, None) if rows == 4 else (rows, 4)
    assert (found.rows, found.of) == expected
    assert found.predictions is None
    assert to_request(FIXED, x).tensors["x"].shape == (4, 2)


def filled(rows: int) -> np.ndarray:
    return np.arange(4) < rows


@pytest.mark.parametrize(
    ("spec", "batch_size"),
    [
        (model(tensor(None, 2), max_batch_size=8), 5),
        (model(tensor(None, 2), max_batch_size=8), 8),
        (model(tensor(None, 2)), 5),
        (model(tensor(5, 2)), 5),
        (model(tensor(5, 2, datatype="BF16")), None),
    ],
)
def test_a_batch_size_can_be_asked_for(spec, batch_size) -> None:
    found = to_request(spec, ones(3, 2), batch_size=batch_size)
    of = batch_size or 5
    assert found.tensors["x"].shape == (of, 2)
    assert (found.rows, found.of) == (3, of)
    full = to_request(spec, ones(of, 2), batch_size=batch_size)
    assert full.rows is None
    with pytest.raises(
        ShapeMismatch,
        match=f"'x' has {of + 1} rows, but .* at most {of}: send them in p",
    ):
        to_request(spec, ones(of + 1, 2), batch_size=batch_size)


def test_what_is_no_batch_is_not_filled_up() -> None:
    """Two channels of an image are no rows: nothing comes out for each."""
    spec = ModelSpec(
        "m", None, {"x": tensor(2, 8)}, {"y": tensor(1, name="y")}
    )
    assert batch_to_fill(spec, None) is None
    with pytest.raises(ShapeMismatch, match=r"'x' has shape \(1, 8\), but"):
        to_request(spec, ones(1, 8))
    assert to_request(spec, ones(1, 8), batch_size=2).rows == 1
    other = model(tensor(4, 2), tensor(2, name="z"))
    with pytest.raises(ShapeMismatch, match=r"'x' has shape \(3, 2\), but"):
        to_request(other, {"x": ones(3, 2), "z": ones(2)})


@pytest.mark.parametrize(
    ("spec", "batch_size", "match"),
    [
        (model(tensor(4)), 8, "batch_size=8, .* 'model' have always 4 rows"),
        (model(tensor(None), max_batch_size=4), 5, "have 1 to 4 rows: give"),
        (model(tensor(None)), 0, "batch_size=0, .* have 1 row or more"),
        (model(tensor(1)), 8, "have always 1 rows"),
        (model(tensor()), 8, "have no axis for a batch: give such a batch"),
        (model(tensor(2), tensor(3, name="z")), 2, "have no axis for a batch"),
    ],
)
def test_a_batch_size_that_the_model_lacks_is_refused(
    spec, batch_size, match
) -> None:
    with pytest.raises(InvalidRequest, match=match):
        to_request(spec, zeros(spec), batch_size=batch_size)


def test_the_padding_of_a_batch_never_reaches_a_state() -> None:
    spec = model(tensor(4, 2), is_stateful=True)
    with pytest.raises(ShapeMismatch, match=r"shape \(3, 2\), but the model"):
        to_request(spec, ones(3, 2))
    rows = model(tensor(None, 2), max_batch_size=4, is_stateful=True)
    found = to_request(rows, ones(1, 2), batch_size=4)
    assert found.tensors["x"].shape == (1, 2)
    assert found.rows is None


def test_a_batch_has_as_many_rows_of_each() -> None:
    pair = tensor(None, 2), tensor(None, name="z")
    x = {"x": ones(3, 2), "z": ones(2)}
    for spec, batch_size in (
        (model(*pair), 4),
        (model(*pair, max_batch_size=8), None),
        (model(tensor(4, 2), tensor(4, name="z")), None),
    ):
        with pytest.raises(
            ShapeMismatch, match=r"numbers of rows: {'x': 3, '"
        ):
            to_request(spec, x, batch_size=batch_size)
    # without a batch the axes may be anything
    assert to_request(model(*pair), x).rows is None


def test_a_batch_has_the_rows_that_the_server_takes() -> None:
    spec = model(tensor(None, 2), max_batch_size=4)
    assert to_request(spec, ones(4, 2)).rows is None
    with pytest.raises(
        ShapeMismatch, match=r"has 5 rows, .* has at most 4: s"
    ):
        to_request(spec, ones(5, 2))


@pytest.mark.parametrize(
    ("spec", "batch_size"),
    [
        (model(tensor(None, 2)), None),
        (model(tensor(None, 2)), 4),
        (model(tensor(None, 2), max_batch_size=4), None),
        (model(tensor(4, 2)), None),
    ],
)
def test_a_batch_without_rows_is_refused(spec, batch_size) -> None:
    with pytest.raises(ShapeMismatch, match="'x' has no rows: give at least"):
        to_request(spec, ones(0, 2), batch_size=batch_size)


def test_an_axis_that_is_no_batch_may_be_empty() -> None:
    spec = model(tensor(3), tensor(None, 4, name="boxes"))
    found = to_request(spec, {"x": ones(3), "boxes": ones(0, 4)})
    assert found.tensors["boxes"].shape == (0, 4)


# Streams


channels = st.lists(
    st.none() | st.integers(1, 4), min_size=1, max_size=4
).filter(bool)


@given(
    st.lists(
        st.tuples(channels, st.integers(1, 5), st.integers(1, 4)),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(["FP32", "BF16"]),
    st.data(),
)
def test_parts_are_joined_in_the_declared_order(shapes, wire, data) -> None:
    """0 to 3 streams of 1 to 4 inputs each, whole or in parts."""
    entries = [
        entry(
            f"update{i}",
            {f"m{i}/x{j}": c for j, c in enumerate(parts)},
            stride,
            batch,
        )
        for i, (parts, stride, batch) in enumerate(shapes)
    ]
    spec = streaming(*entries, datatype=wire)
    given_ones, expected, number = {}, {}, 0
    for e in entries:
        rows = []
        parts = {}
        for name, c in e.tensors.items():
            part = np.full(((c or 1), e.update_size), number, "f4")
            number += 1
            rows.append(part)
            part = part[0] if c is None else part
            parts[name] = part[None] if data.draw(st.booleans()) else part
        expected[e.name] = np.concatenate(rows)[None]
        if data.draw(st.booleans()):
            given_ones[e.name] = expected[e.name]
        else:
            given_ones |= dict(data.draw(st.permutations([*parts.items()])))
    order = data.draw(st.permutations([*given_ones]))
    found = to_request(spec, {name: given_ones[name] for name in order})
    assert found.predictions is None
    assert [*found.tensors] == [*expected]
    for name, array in found.tensors.items():
        got = dtypes.from_bfloat16(array) if wire == "BF16" else array
        np.testing.assert_array_equal(got, expected[name])


TWO = streaming(
    entry("fast", {"m/a": 2, "m/b": None}, 2, 3),
    entry("slow", {"n/a": 1}, 4, 3),
)


def test_all_parts_are_needed() -> None:
    with pytest.raises(InvalidRequest, match="'fast' also needs 'm/b'"):
        to_request(TWO, {"m/a": ones(2, 6), "slow": ones(1, 12)})
    with pytest.raises(InvalidRequest, match="given were 'm/a', 'fast'"):
        to_request(TWO, {"m/a": ones(2, 6), "fast": ones(3, 6)})


def test_parts_are_cast_as_the_rest() -> None:
    parts = {"m/a": np.ones((2, 6)), "m/b": np.ones(6, int)}
    found = to_request(TWO, {**parts, "slow": ones(1, 12)}, cast=True)
    assert found.tensors["fast"].dtype == np.float32
    assert found.tensors["fast"].shape == (1, 3, 6)


def test_an_update_is_whole_unless_it_is_the_last() -> None:
    spec = streaming(entry("u", {"m/a": 2}, 2, 3))
    for x in (ones(2, 5), {"m/a": ones(2, 5)}):
        with pytest.raises(ShapeMismatch, match=r"has shape \(1, 2, 5\), but"):
            to_request(spec, x)
        assert to_request(spec, x, allow_tail=True).predictions == 2


@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_a_tail_is_filled_up(stride, batch, data) -> None:
    spec = streaming(entry("u", {"m/a": 2, "m/b": None}, stride, batch))
    full = stride * batch
    size = data.draw(st.integers(1, full))
    update = 1 + np.arange(3 * size, dtype="f4").reshape(3, size)
    parts = {"m/b": update[2], "m/a": update[:2]}
    for x in (update, update[None], parts):
        found = to_request(spec, x, allow_tail=True)
        tensor = found.tensors["u"]
        assert tensor.shape == (1, 3, full)
        np.testing.assert_array_equal(tensor[0, :, :size], update)
        assert not tensor[..., size:].any()
        expected = None if size == full else size // stride
        assert found.predictions == expected
        assert found.rows is None


@given(st.integers(1, 5))
def test_streams_end_at_the_same_time(third) -> None:
    x = {"fast": ones(3, third), "slow": ones(1, 2 * third)}
    found = to_request(TWO, x, allow_tail=True)
    assert found.predictions == third // 2
    x["slow"] = ones(1, 2 * third + 1)
    with pytest.raises(
        ShapeMismatch,
        match=f"'slow' ends after {2 * third + 1} of 12 samples, 'fast' aft",
    ):
        to_request(TWO, x, allow_tail=True)


@pytest.mark.parametrize(
    ("size", "match"),
    [
        (0, "'u' has 0 samples, but an update has 6, the last of a stream at"),
        (7, "'u' has 7 samples, but an update has 6"),
    ],
)
def test_a_tail_is_neither_empty_nor_too_long(size, match) -> None:
    spec = streaming(entry("u", {"m/a": 2}, 2, 3))
    with pytest.raises(ShapeMismatch, match=match):
        to_request(spec, ones(2, size), allow_tail=True)


def test_the_parts_of_a_tail_are_as_long() -> None:
    x = {"m/a": ones(2, 5), "m/b": ones(4), "slow": ones(1, 12)}
    with pytest.raises(
        ShapeMismatch, match=r"'fast' have \[4, 5\] samples: give as many"
    ):
        to_request(TWO, x, allow_tail=True)


def test_without_a_stream_there_is_no_tail() -> None:
    found = to_request(ONE, ones(2), allow_tail=True)
    assert found.predictions is None
    with pytest.raises(ShapeMismatch, match=r"'x' has shape \(1, 2\), but"):
        to_request(model(tensor(1, 3)), ones(1, 2), allow_tail=True)


def test_a_request_that_is_sent_as_it_is_says_so() -> None:
    assert vars(to_request(ONE, ones(2))).keys() == vars(Prepared({})).keys()
    found = to_request(ONE, ones(2))
    assert (found.rows, found.of, found.predictions) == (None, None, None)
