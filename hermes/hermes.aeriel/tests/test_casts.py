"""From an array's dtype to the one that a tensor is sent as; no server."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hermes.aeriel import dtypes
from hermes.aeriel.client._requests import to_request
from hermes.aeriel.errors import (
    DtypeMismatch,
    InvalidRequest,
    ShapeMismatch,
)
from hermes.aeriel.specs import ModelSpec, TensorSpec

INTEGERS = [f"{kind}{n}" for kind in "iu" for n in (1, 2, 4, 8)]
FLOATS = ["f2", "f4", "f8"]


def model(*shape: int | None, dtype: Any = "f4", **more: Any) -> ModelSpec:
    """A model of one input."""
    x = TensorSpec("x", shape, np.dtype(dtype), **more)
    return ModelSpec("model", None, {"x": x}, {})


ONE = model(None)
BF16 = model(None, datatype="BF16")
WORDS = model(None, dtype=object)


def cast(dtype: Any, values: Any) -> np.ndarray:
    """The values as the only input of a model of that dtype."""
    return to_request(model(None, dtype=dtype), values, cast=True).tensors["x"]


def test_an_array_of_the_right_dtype_is_not_copied() -> None:
    array = np.ones(3, "f4")
    assert np.shares_memory(to_request(ONE, array).tensors["x"], array)
    assert np.shares_memory(
        to_request(ONE, array, cast=True).tensors["x"], array
    )


def test_the_order_of_bytes_is_no_other_dtype() -> None:
    found = to_request(ONE, np.array([1, 2], ">f4")).tensors["x"]
    assert found.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(found, [1, 2])


@pytest.mark.parametrize(
    ("spec", "x", "match"),
    [
        (
            ONE,
            [1.0],
            r"float64, but .* with \.astype\(np\.float32\), or give cast=True",
        ),
        (ONE, ["1"], "'x' is <U1, but the model takes float32$"),
        (ONE, [1j], "'x' is complex128, but the model takes float32$"),
        (ONE, [None], "'x' is object, but the model takes float32$"),
        (WORDS, [1], r"'x' has 1 at \(0,\), but the model takes bytes: give"),
        (
            WORDS,
            np.ones(1, "f4"),
            "'x' is float32, .* takes bytes: give str or bytes",
        ),
        (BF16, [1.0], r"'x' is float64, but the model takes bfloat16: conve"),
        (BF16, np.ones(1, "f2"), "'x' is float16, but the model takes bflo"),
        (BF16, ["1"], "'x' is <U1, but the model takes bfloat16$"),
    ],
)
def test_another_dtype_is_refused(spec, x, match) -> None:
    with pytest.raises(DtypeMismatch, match=match):
        to_request(spec, x)


@pytest.mark.parametrize("x", [["1"], [b"1"], [1j], [None], [2**70]])
@pytest.mark.parametrize("spec", [ONE, BF16])
def test_what_is_no_number_becomes_none(spec, x) -> None:
    with pytest.raises(DtypeMismatch, match="but the model takes"):
        to_request(spec, x, cast=True)


@given(
    st.sampled_from(INTEGERS),
    st.sampled_from(INTEGERS),
    st.data(),
)
def test_integers_become_others_if_they_fit(source, target, data) -> None:
    array = data.draw(arrays.arrays(source, 3))
    limits = np.iinfo(target)
    values = [int(v) for v in array]
    if all(limits.min <= v <= limits.max for v in values):
        assert [int(v) for v in cast(target, array)] == values
    else:
        with pytest.raises(DtypeMismatch, match=f"which is no {limits.dtype}"):
            cast(target, array)


@given(
    st.sampled_from(FLOATS),
    st.sampled_from(INTEGERS),
    st.data(),
)
def test_whole_numbers_become_integers(source, target, data) -> None:
    width = np.dtype(source).itemsize * 8
    numbers = st.floats(width=width) | st.integers(-600, 600).map(float)
    array = data.draw(arrays.arrays(source, 3, elements=numbers))
    limits = np.iinfo(target)
    values = [float(v) for v in array]
    if all(
        v.is_integer() and limits.min <= int(v) <= limits.max
        for v in values
        if math.isfinite(v)
    ) and all(map(math.isfinite, values)):
        assert [int(v) for v in cast(target, array)] == [*map(int, values)]
    else:
        with pytest.raises(DtypeMismatch, match=f"which is no {limits.dtype}"):
            cast(target, array)


@given(
    st.sampled_from([*INTEGERS, *FLOATS]), st.sampled_from(FLOATS), st.data()
)
def test_numbers_become_the_nearest_ones(source, target, data) -> None:
    array = data.draw(arrays.arrays(source, 3))
    with np.errstate(over="ignore"):
        expected = array.astype(target)
    if (np.isinf(expected) & np.isfinite(array)).any():
        with pytest.raises(DtypeMismatch, match="beyond the largest FP"):
            cast(target, array)
    else:
        np.testing.assert_array_equal(cast(target, array), expected)


def test_a_refusal_names_the_value_and_its_place() -> None:
    spec = model(None, 2, dtype="u1")
    with pytest.raises(DtypeMismatch, match=r"'x' has 300 at \(1, 0\), which"):
        to_request(spec, [[1, 2], [300, -1]], cast=True)
    with pytest.raises(DtypeMismatch, match=r"has 0.5 at \(0, 1\), which is"):
        to_request(spec, [[1, 0.5]], cast=True)
    with pytest.raises(DtypeMismatch, match=r"70000 at \(0,\), beyond the l"):
        cast("f2", [70000])
    with pytest.raises(DtypeMismatch, match="which is no int64"):
        cast("i8", [2.0**63])


def test_truth_is_a_number() -> None:
    for dtype in (*INTEGERS, *FLOATS):
        np.testing.assert_array_equal(cast(dtype, [True, False]), [1, 0])
        found = cast("?", np.array([0, 1, 3], dtype))
        np.testing.assert_array_equal(found, [False, True, True])


def bfloat16_of(spec: ModelSpec, x: Any, **options: Any) -> np.ndarray:
    found = to_request(spec, x, **options).tensors["x"]
    assert found.dtype == np.dtype("V2")
    return dtypes.from_bfloat16(found)


def test_bfloat16_takes_what_it_holds_exactly() -> None:
    exact = np.array([1.5, -0.0, np.inf, np.nan], "f4")
    np.testing.assert_array_equal(bfloat16_of(BF16, exact), exact)
    big = bfloat16_of(BF16, exact.astype(">f4"))
    np.testing.assert_array_equal(big, exact)
    raw = dtypes.to_bfloat16(exact)
    assert np.shares_memory(to_request(BF16, raw).tensors["x"], raw)
    with pytest.raises(
        DtypeMismatch,
        match=r"has 0.1\d* at \(1,\), which is not exactly a bfloat16;"
        " cast=True rounds to nearest even",
    ):
        to_request(BF16, np.array([1, 0.1], "f4"))


@pytest.mark.parametrize("dtype", [*FLOATS, ">f4", ">f8", "i8", "?"])
def test_numbers_are_rounded_to_bfloat16(dtype) -> None:
    array = np.array([0, 1, 3.3, 257, 259], dtype)
    expected = {
        3.3: 3.296875,
        257: 256,
        259: 260,
    }
    wanted = [expected.get(round(float(v), 1), float(v)) for v in array]
    np.testing.assert_array_equal(bfloat16_of(BF16, array, cast=True), wanted)


def test_numbers_beyond_the_largest_bfloat16_are_refused() -> None:
    with pytest.raises(DtypeMismatch, match=r"\(1,\), beyond the largest BF"):
        to_request(BF16, [np.inf, 1e39], cast=True)


def test_a_bfloat16_library_is_understood() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    array = np.array([1, 2.5, np.nan], bfloat16)
    wanted = array.astype("f4")
    np.testing.assert_array_equal(bfloat16_of(BF16, array), wanted)
    np.testing.assert_array_equal(bfloat16_of(BF16, array[::-1]), wanted[::-1])
    np.testing.assert_array_equal(cast("f4", array), wanted)
    with pytest.raises(DtypeMismatch, match=r"'x' is bfloat16, .* cast=True"):
        to_request(ONE, array)


@pytest.mark.parametrize(
    "x",
    [
        ["a", b"b\0"],
        ("a", np.bytes_(b"b")),
        np.array(["a", "b"]),
        np.array([b"a", b"b"]),
        np.array(["a", b"b\0"], object),
        np.array(["a", "b"], np.dtypes.StringDType()),
    ],
)
def test_bytes_come_in_many_ways(x) -> None:
    found = to_request(WORDS, x).tensors["x"]
    assert found.dtype == object
    first, second = dtypes.decode(dtypes.encode(found), "BYTES", (2,))
    assert first == b"a"
    # zeros at the end are part of it where numpy does not drop them
    last = x[1] if isinstance(x[1], bytes) else x[1].encode()
    assert second == last


@pytest.mark.parametrize("bad", [1, None, 2.5, ["b"], bytearray(b"b")])
def test_an_object_that_is_no_text_is_named(bad) -> None:
    spec = model(None, 2, dtype=object)
    array = np.empty((2, 2), object)
    array[:] = "a"
    array[1, 0] = bad
    with pytest.raises(DtypeMismatch, match=r" at \(1, 0\), .*str or bytes"):
        to_request(spec, array)


class Distant:
    """An array that is not in this machine's memory."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("copy it to the host first")


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="as an array: copy it to the"):
        to_request(ONE, Distant())
    with pytest.raises(ShapeMismatch, match="'x' is no array: "):
        to_request(ONE, [[1.0], [1.0, 2.0]])
