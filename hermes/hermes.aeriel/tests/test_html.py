"""What notebooks show."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from hermes.aeriel import _html
from hermes.aeriel.specs import (
    ModelSpec,
    StreamInput,
    StreamOutput,
    StreamSpec,
    TensorSpec,
)

X = TensorSpec("x", (None, 2), np.dtype("f4"))
WORDS = TensorSpec("words", (1,), np.dtype(object), optional=True)
HALF = TensorSpec("half", (1,), np.dtype("f4"), "BF16")
STREAM = StreamSpec(
    {"u": StreamInput("u", {"m/x": 2, "m/z": None}, 2, 4, 7, 2, 3)},
    {"y": StreamOutput("y", 3, 2)},
    5,
)
SPEC = ModelSpec(
    "model",
    None,
    {t.name: t for t in (X, WORDS)},
    {"half": HALF},
    {"m/x": TensorSpec("m/x", (1, 2, 4), np.dtype("f4"))},
    STREAM,
    is_stateful=True,
    max_batch_size=8,
)


class Reader(HTMLParser):
    """Takes the cells out, and sees that what opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert attrs == []
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.cells.append(data)


def test_a_table_has_a_head_rows_and_a_caption() -> None:
    text = _html.table([("a", 1), ("b", None)], ("name", "size"), "Sizes")
    reader = Reader(text)
    assert reader.cells == ["Sizes", "name", "size", "a", "1", "b", "None"]
    assert reader.tags >= {"table", "thead", "tbody", "tr", "th", "td"}
    assert Reader(_html.table([])).cells == []


@pytest.mark.parametrize(
    "text",
    [
        _html.table([("<script>&\"'",)], ("<b>",), "<i>"),
        _html.paragraph("<script>", "<i>"),
    ],
)
def test_nothing_that_is_shown_is_markup(text) -> None:
    assert not Reader(text).tags & {"script", "i"}
    assert "&lt;i&gt;" in text


def test_a_paragraph_may_have_one_part() -> None:
    assert _html.paragraph("model") == "<p><b>model</b></p>"


def test_a_tensor_shows_its_shape_and_dtype() -> None:
    assert str(X) == "x float32[None, 2]"
    assert repr(WORDS) == "TensorSpec(words bytes[1] (optional))"
    assert str(HALF) == "half bfloat16[1]"
    cells = Reader(WORDS._repr_html_()).cells
    assert cells[-3:] == ["words", "[1]", "bytes, optional"]


def test_a_stream_shows_its_sizes() -> None:
    assert str(STREAM).splitlines() == [
        "stream (replay_updates 5)",
        "  takes  u: stride 2, kernel 7, batch 2, update 4 samples, warm-up 3",
        "  gives  y: 2 per update, warm-up 3",
    ]
    text = " ".join(Reader(STREAM._repr_html_()).cells)
    assert "u 2 7 2 4 3" in text
    assert "y 2 3" in text
    unbounded = StreamSpec({}, {}, None)
    assert "no number of updates" in str(unbounded)


def test_a_model_shows_what_it_takes_and_gives() -> None:
    lines = str(SPEC).splitlines()
    assert lines[:5] == [
        "model (version latest, stateful, at most 8 rows)",
        "  input  x float32[None, 2]",
        "  input  words bytes[1] (optional)",
        "  state  m/x float32[1, 2, 4]",
        "  output half bfloat16[1]",
    ]
    assert lines[5] == "  stream (replay_updates 5)"
    assert repr(SPEC).startswith("ModelSpec(model (version latest, stateful")
    assert "\n" not in repr(SPEC)
    cells = Reader(SPEC._repr_html_()).cells
    assert cells[0] == lines[0]
    assert "m/x" in cells
    assert "replay_updates 5" in " ".join(cells)


def test_a_model_without_a_stream_shows_none() -> None:
    spec = ModelSpec("plain", 3, {"x": X}, {})
    assert str(spec) == "plain (version 3)\n  input  x float32[None, 2]"
    assert "stream" not in spec._repr_html_()
