"""Fields taken from and put beside what protobuf encodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from hermes.aeriel._protobuf import before_bytes, take_out


@given(
    contents=st.lists(st.binary(max_size=300), max_size=4),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    number=st.floats(allow_nan=False),
    name=st.text(max_size=5),
)
def test_a_field_is_taken_out_and_put_back(
    contents, shape, number, name
) -> None:
    message = service_pb2.ModelInferResponse(
        id=name, raw_output_contents=contents
    )
    message.outputs.add(name=name, shape=shape)
    message.parameters["number"].double_param = number
    rest, found = take_out(memoryview(message.SerializeToString()), 6)
    assert [bytes(content) for content in found] == contents
    without = service_pb2.ModelInferResponse.FromString(rest)
    assert not without.raw_output_contents
    again = rest + b"".join(
        before_bytes(6, len(content)) + content for content in contents
    )
    assert service_pb2.ModelInferResponse.FromString(again) == message


def test_numbers_of_a_fixed_size_are_stepped_over() -> None:
    data = b"\x0d1234" + b"\x1112345678" + b"\x32\x01x" + b"\x08\x96\x01"
    rest, found = take_out(memoryview(data), 6)
    assert [bytes(content) for content in found] == [b"x"]
    assert rest == data.replace(b"\x32\x01x", b"")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\x32\x05abc", "ends in a field"),
        (b"\x32\x80", "ends in a number"),
        (b"\x33", "type 3"),
    ],
)
def test_what_is_no_message_is_refused(data, match) -> None:
    with pytest.raises(ValueError, match=match):
        take_out(memoryview(data), 6)
