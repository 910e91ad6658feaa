"""Packages as bytes."""

from __future__ import annotations

import copyreg
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hermes.stillwater._packing import (
    HEADER_SIZE,
    SMALL,
    Header,
    Packer,
    Taken,
    array_sizes,
)


def cross(package: Any, packer: Packer | None = None) -> tuple[Any, Header]:
    """Pack and unpack, the way the size asks for."""
    parts = (packer or Packer()).pack(3, package)
    data = memoryview(bytearray(b"".join(parts)))
    header = Header.read(bytes(data[:HEADER_SIZE]))
    body = data[HEADER_SIZE:]
    assert header.kind == 3
    if header.is_small:
        assert len(body) == header.size
        return Taken(header, body).unpack(), header
    head, at = body[: header.head_size], header.head_size
    arrays = []
    for size in array_sizes(header, head):
        arrays.append(body[at : at + size])
        at += size
    assert at == len(body)
    return Taken(header, head, arrays).unpack(), header


DTYPES = st.one_of(
    hnp.scalar_dtypes(), hnp.array_dtypes(), hnp.unicode_string_dtypes()
)


@given(
    hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0)),
    st.integers(0, 3),
)
def test_every_array_comes_back_as_it_was(array: Any, way: int) -> None:
    views = (array, array.T, np.flip(array), np.asfortranarray(array))
    view = views[way]
    (again, text), _ = cross((view, "text"))
    assert (again.dtype, again.shape) == (view.dtype, view.shape)
    assert again.tobytes() == view.tobytes()
    assert text == "text"


PLAIN = [
    np.arange(12.0).reshape(3, 4)[:, ::2],
    np.asfortranarray(np.arange(12).reshape(3, 4)),
    np.array(1.5),
    np.zeros((0, 3)),
    np.array([True, False]),
    np.array([1 + 2j], np.complex64),
    np.array([1.5], np.float16),
    np.arange(3, dtype=">i4"),
    np.broadcast_to(np.arange(3), (4, 3)),
    np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
    np.array(["2026-01-01"], "M8[D]")[::-1],
    np.array([7, 8], "m8[s]"),
]


@pytest.mark.parametrize("array", PLAIN, ids=lambda a: f"{a.dtype}{a.shape}")
def test_the_data_of_plain_arrays_is_not_in_the_pickle(array: Any) -> None:
    again, header = cross({"deep": [array]})
    assert header.num_arrays == 1
    np.testing.assert_array_equal(again["deep"][0], array)
    assert again["deep"][0].dtype == array.dtype
    assert again["deep"][0].flags.writeable


@given(
    hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=6, min_side=0)),
    st.booleans(),
)
def test_an_array_alone_comes_back_as_it_was(
    array: Any, is_turned: bool
) -> None:
    array = array.T if is_turned else array
    again, _ = cross(array)
    assert type(again) is np.ndarray
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert again.tobytes() == array.tobytes()
    assert again.flags.aligned
    assert again.flags.writeable


@pytest.mark.parametrize("dtype", [">f16", ">c32", "<f16", ">f2"])
def test_long_doubles_of_any_order_cross(dtype: str) -> None:
    array = np.arange(5).astype(dtype)
    for package in (array, [array]):
        again, _ = cross(package)
        found = again if package is array else again[0]
        # numpy's own pickles give those in the machine's order
        assert found.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
        assert found.tolist() == array.tolist()


def test_other_arrays_cross_as_well() -> None:
    masked = np.ma.array([1, 2], mask=[False, True])
    objects = np.array([{"a": 1}, None, "x"], object)
    again, _ = cross([masked, objects])
    assert again[0].mask.tolist() == [False, True]
    assert again[1].tolist() == objects.tolist()


def test_a_memmap_becomes_an_array(tmp_path: Path) -> None:
    file = np.memmap(tmp_path / "file", np.int64, "w+", shape=5)
    file[:] = range(5)
    again, header = cross(file[1:])
    assert type(again) is np.ndarray
    assert again.tolist() == [1, 2, 3, 4]
    assert header.num_arrays == 1


def test_a_read_only_array_stays_read_only() -> None:
    array = np.arange(3)
    array.flags.writeable = False
    again, _ = cross(array)
    assert not again.flags.writeable


def test_the_same_array_twice_crosses_once() -> None:
    array = np.zeros(10_000)
    (one, two), header = cross([array, array])
    assert header.num_arrays == 1
    assert one is two


@pytest.mark.parametrize("size", [SMALL - 4096, SMALL, 3 * SMALL + 1])
def test_both_sizes_of_packages_are_cut_alike(size: int) -> None:
    arrays = [np.full(size // 3, n, np.uint8) for n in range(3)]
    again, header = cross(arrays)
    assert header.is_small == (size < SMALL)
    for one, other in zip(arrays, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_cannot_be_packed_leaves_nothing_for_the_next_package() -> None:
    packer = Packer()
    with pytest.raises(TypeError, match="pickle"):
        packer.pack(0, [np.zeros(5), threading.Lock()])
    (again,), header = cross([np.arange(3)], packer)
    assert again.tolist() == [0, 1, 2]
    assert header.num_arrays == 1


class Registered:
    """Can be pickled because somebody said how, later than we were made."""

    __slots__ = ("value",)


def restore(value: int) -> Registered:
    thing = Registered()
    thing.value = value
    return thing


def test_reducers_that_are_registered_later_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packer = Packer()
    reducers = copyreg.dispatch_table
    monkeypatch.setitem(reducers, Registered, lambda r: (str, (r.value,)))
    assert cross(restore(5), packer)[0] == "5"
