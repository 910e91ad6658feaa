"""Bytes on the wire, and arrays: one is the other."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hermes.aeriel import dtypes
from hermes.aeriel.errors import (
    DtypeMismatch,
    InferenceError,
    UnsupportedModel,
)

NUMBERS = [
    "BOOL",
    *(f"{kind}{n}" for kind in ("UINT", "INT") for n in (8, 16, 32, 64)),
    *("FP16", "FP32", "FP64"),
]
singles = st.floats(width=32)


def value_of(bits: int) -> float:
    """The BF16 number of 16 bits."""
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


@pytest.mark.parametrize("name", [*NUMBERS, "BYTES"])
def test_each_dtype_has_two_spellings(name) -> None:
    dtype = dtypes.from_triton(f"TYPE_{name}")
    assert dtypes.to_wire(dtype) == name
    assert dtypes.to_wire(dtype.newbyteorder(">")) == name
    assert dtypes.from_triton(name) == dtype


def test_the_wire_has_names_of_its_own() -> None:
    assert dtypes.wire_name("TYPE_STRING") == "BYTES"
    assert dtypes.wire_name("TYPE_FP32") == "FP32"
    assert dtypes.to_wire(np.dtype("V2")) == "BF16"
    assert dtypes.from_triton("TYPE_BF16") == np.float32


def test_what_the_other_does_not_have_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no dtype for Triton's TYPE_Q"):
        dtypes.from_triton("TYPE_Q")
    with pytest.raises(DtypeMismatch, match="no dtype for numpy's complex64"):
        dtypes.to_wire(np.dtype("c8"))


@given(st.data(), st.sampled_from(NUMBERS))
def test_numbers_survive_the_wire(data, name) -> None:
    dtype = dtypes.from_triton(name)
    shape = data.draw(arrays.array_shapes(min_dims=0, min_side=0))
    array = data.draw(arrays.arrays(dtype, shape))
    if array.ndim > 1:
        array = array.swapaxes(0, -1)[::-1]
    if data.draw(st.booleans()):
        array = array.astype(dtype.newbyteorder(">"))
    content = dtypes.encode(array)
    for given_as in (content, bytearray(content), memoryview(content)):
        found = dtypes.decode(given_as, name, array.shape)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == dtype
        assert found.flags.writeable


@given(
    arrays.arrays(
        np.object_,
        arrays.array_shapes(min_dims=0, min_side=0),
        elements=st.binary(max_size=9) | st.text(max_size=9),
    )
)
def test_bytes_survive_the_wire(array) -> None:
    found = dtypes.decode(dtypes.encode(array), "BYTES", array.shape)
    for got, sent in zip(found.flat, array.flat, strict=True):
        assert got == (sent.encode() if isinstance(sent, str) else sent)
        assert type(got) is bytes


def test_bytes_are_their_lengths_and_themselves() -> None:
    array = np.array(["é", b"a\0", np.str_("x"), np.bytes_(b"y")], object)
    sent = b"\2\0\0\0\xc3\xa9\2\0\0\0a\0\1\0\0\0x\1\0\0\0y"
    assert dtypes.encode(array) == sent


def test_a_writable_content_is_not_copied() -> None:
    content = bytearray(16)
    array = dtypes.decode(content, "FP32", (4,))
    array[0] = 1
    assert content[:4] == struct.pack("<f", 1)
    odd = dtypes.decode(memoryview(bytearray(17))[1:], "FP32", (4,))
    assert odd.flags.aligned
    assert odd.flags.writeable


@pytest.mark.parametrize(
    ("content", "wire", "match"),
    [
        (b"12345", "FP32", r"5 bytes that are no FP32 of shape \(1, 2\)"),
        (b"1234", "FP32", r"4 bytes that are no FP32"),
        (b"123", "BF16", r"3 bytes that are no BF16"),
        (b"\1\0\0\0a", "BYTES", r"no BYTES of shape"),
        (b"\1\0\0", "BYTES", r"no BYTES of shape"),
        (b"\1\0\0\0a\2\0\0\0b", "BYTES", r"the last item is cut off"),
    ],
)
def test_bytes_that_are_no_array_are_refused(content, wire, match) -> None:
    with pytest.raises(InferenceError, match=match):
        dtypes.decode(content, wire, (1, 2))


def test_each_bfloat16_is_a_float32_and_back() -> None:
    every = np.arange(2**16, dtype="<u2")
    found = dtypes.decode(every.tobytes(), "BF16", (2**8, 2**8))
    assert found.dtype == np.float32
    assert found.flags.writeable
    for bits in (0, 1, 0x3F80, 0x7F80, 0x8000, 0xFF7F):
        assert found.flat[bits] == value_of(bits)
    assert dtypes.is_bfloat16(found).all()
    back = dtypes.to_bfloat16(found)
    assert back.dtype == np.dtype("V2")
    assert back.shape == found.shape
    again = dtypes.from_bfloat16(back)
    np.testing.assert_array_equal(again, found)
    np.testing.assert_array_equal(np.signbit(again), np.signbit(found))


def nearest(value: float) -> float:
    """The nearest BF16, ties to the even one; by search."""
    if not np.isfinite(value) or value == 0:
        return value
    magnitude, low, high = abs(Fraction(value)), 0, 0x7F80
    while high - low > 1:
        middle = (low + high) // 2
        if Fraction(value_of(middle)) <= magnitude:
            low = middle
        else:
            high = middle
    # the infinity stands where the next number would be
    above = Fraction(2) ** 128 if high == 0x7F80 else Fraction(value_of(high))
    below = Fraction(value_of(low))
    halves = magnitude - below, above - magnitude
    up = halves[0] > halves[1] or (halves[0] == halves[1] and low % 2)
    return float(np.copysign(value_of(high if up else low), value))


TIES = [1.00390625, 1.01171875, -1.00390625, 3.3961776e38, 3.4e38, 1e-45]


@given(
    st.floats()
    | st.floats(width=32)
    | st.sampled_from(TIES)
    | st.builds(
        lambda tie, nudge: float(np.nextafter(tie, nudge)),
        st.sampled_from(TIES),
        st.sampled_from([np.inf, -np.inf]),
    )
)
def test_rounding_is_to_the_nearest_once(value) -> None:
    found = dtypes.from_bfloat16(dtypes.to_bfloat16(np.array(value)))[()]
    np.testing.assert_equal(found, np.float32(nearest(value)))
    assert np.isnan(value) or np.signbit(found) == np.signbit(value)


def test_a_nan_stays_one_whatever_its_bits() -> None:
    bits = np.array([0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF, 0xFF800001], "u4")
    array = bits.view("f4")
    assert dtypes.is_bfloat16(array).all()
    assert np.isnan(dtypes.from_bfloat16(dtypes.to_bfloat16(array))).all()


@given(arrays.arrays("f4", 3, elements=singles))
def test_what_is_a_bfloat16_is_not_rounded(array) -> None:
    rounded = dtypes.from_bfloat16(dtypes.to_bfloat16(array))
    expected = np.isnan(array) | (rounded == array)
    np.testing.assert_array_equal(dtypes.is_bfloat16(array), expected)
    assert dtypes.is_bfloat16(rounded).all()


def test_rounding_leaves_the_given_array_alone() -> None:
    for dtype in ("f2", "f4", "f8"):
        array = np.array([[1.0, 2.7], [3.3, np.nan]], dtype)
        before = array.copy()
        dtypes.to_bfloat16(array.T)
        dtypes.to_bfloat16(array)
        np.testing.assert_array_equal(array, before)


def test_bfloat16_goes_through_as_its_library_knows_it() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    array = np.random.default_rng(0).normal(size=(4, 5)).astype("f4")
    theirs = array.astype(bfloat16)
    ours = dtypes.to_bfloat16(array)
    assert dtypes.encode(ours) == theirs.tobytes()
    assert dtypes.encode(ours.T) == theirs.T.tobytes()
    assert dtypes.from_bfloat16(ours.T).shape == (5, 4)
