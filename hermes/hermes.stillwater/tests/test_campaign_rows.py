import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.stillwater._campaign import _rows
from hermes.stillwater._campaign._rows import Header, Output, Row
from hermes.stillwater._campaign._standing import stand
from hermes.stillwater.errors import ManifestUnusable

HEADER = Header("analyse", "0123")
KEYS = st.text(string.ascii_letters, min_size=1, max_size=3)
OUTPUTS = st.builds(
    Output, st.text(), st.integers(0), st.text("0123456789abcdef")
)
ROWS = st.builds(
    Row,
    key=KEYS,
    status=st.sampled_from(["done", "error", "failed", "lost"]),
    unit=st.text(max_size=4),
    attempt=st.integers(1),
    outputs=st.lists(OUTPUTS, max_size=3).map(tuple),
    seconds=st.floats(0, 1e9),
    host=st.text(),
    error=st.text(),
    finished=st.floats(0, 1e12),
)


def written(rows):
    return b"".join(map(_rows.write, [HEADER, *rows]))


@given(st.lists(ROWS, max_size=5))
def test_what_is_written_is_read(rows):
    content = written(rows)
    assert _rows.read(content) == (HEADER, rows, len(content))


@given(st.lists(ROWS, min_size=1, max_size=4), st.data())
def test_a_manifest_torn_anywhere_gives_the_rows_before(rows, data):
    content = written(rows)
    cut = data.draw(st.integers(0, len(content)))
    header, found, size = _rows.read(content[:cut])
    assert found == rows[: len(found)]
    assert size <= cut
    whole = content[:cut].count(b"\n")
    assert len(found) == max(0, whole - 1)
    assert header == (HEADER if whole else None)
    # and what is appended after the cut is read
    rest = rows[len(found) :] if whole else [*rows]
    again = content[:size] + (b"" if whole else _rows.write(HEADER))
    again += b"".join(map(_rows.write, rest))
    assert _rows.read(again) == (HEADER, rows, len(again))


@given(st.lists(ROWS, max_size=20), st.booleans())
def test_every_unit_is_done_failed_or_to_be_done(rows, retry_failed):
    keys = sorted({row.key for row in rows} | {"new"})
    found = stand(
        keys, _rows.latest(rows), lambda _: True, retry_failed=retry_failed
    )
    parts = [*found.done, *found.failed, *found.todo]
    assert sorted(parts) == keys
    assert found.suspects <= set(found.todo)
    assert found.attempts.keys() <= set(found.todo)
    if retry_failed:
        assert not found.failed


def test_units_whose_files_are_gone_are_done_again():
    row = Row("a", "done", "", attempt=3)
    found = stand(["a"], {"a": row}, lambda _: False)
    assert found.todo == ["a"]
    assert found.attempts == {}


def test_a_last_line_that_is_garbage_is_cut():
    content = written([Row("a", "done", "", 1)])
    found = _rows.read(content + b"\0\0\0\n")
    assert found == _rows.read(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"some text", "first line is not"),
        (b"some text\n", "first line is not"),
        (b"[]\n", "first line is not"),
        (b"1\n", "first line is not"),
        (b'{"hermes.campaign": 1}\n', "first line is not"),
        (b'{"hermes.campaign": 2, "other": 1}\n', "a newer version"),
        (written([]) + b"what?\n" + written([])[:5], "line 2 is damaged"),
        (written([]) + b'{"key": 1}\n\n', "line 2 is damaged"),
    ],
)
def test_what_is_no_manifest_is_refused(content, reason):
    with pytest.raises(ManifestUnusable, match=reason):
        _rows.read(content + b"\n" * (b"damaged" in reason.encode()))


ROW = Row("a", "done", "digest", 1)


@pytest.mark.parametrize(
    ("found", "units", "reason"),
    [
        (Header("train", "0123"), {"a": "digest"}, "by train, and this is"),
        (Header("analyse", "9"), {"a": "digest"}, "with other arguments"),
        (HEADER, {"a": "other"}, "unit 'a' was another one"),
        (HEADER, {"b": "digest"}, "none of these units, but 'a'"),
    ],
)
def test_the_manifest_of_another_campaign_is_refused(found, units, reason):
    with pytest.raises(ManifestUnusable, match=reason):
        _rows.check(found, HEADER, {"a": ROW}, units)


@pytest.mark.parametrize(
    ("last", "units"),
    [
        ({}, {"b": "digest"}),
        ({"a": ROW}, {"a": "digest", "new": "1"}),
        ({"a": ROW, "b": ROW}, {"a": "digest"}),
    ],
)
def test_units_may_be_added_and_left_out(last, units):
    _rows.check(HEADER, HEADER, last, units)
