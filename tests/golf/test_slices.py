"""golf/slices.py: cutting against counting byte by byte, and that every document and every nat is in one bin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf import slices
from tests.support import ROOT

symbols = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 700)), min_size=1, max_size=60)


@given(symbols, st.floats(0, 20))
def test_position_nats_equal_sharing_out_byte_by_byte(drawn, end):
    """Each byte of a symbol has an equal share of its nats; the end symbol goes where the last byte is."""
    expected = np.zeros(len(slices.EDGES) + 1)
    byte = 0
    for nats, size in drawn:
        for _ in range(size):
            expected[sum(byte >= edge for edge in slices.EDGES)] += nats / size
            byte += 1
    last = sum(byte - 1 >= edge for edge in slices.EDGES)
    expected[last] += end
    found = slices.position_nats(np.array([*(nats for nats, _ in drawn), end]), [*(size for _, size in drawn), 0])
    assert found == pytest.approx(expected[: last + 1], abs=6e-5)  # 4 decimals


def test_an_empty_document_has_its_end_symbol_in_the_first_range():
    assert slices.position_nats(np.array([2.5]), [0]) == [2.5]


def test_non_ascii_counts_characters_not_bytes():
    for text in ("", "plain", "naïve", "日本 語", "\N{GRINNING FACE}"):
        assert slices.non_ascii(text) == pytest.approx(sum(ord(c) > 127 for c in text) / max(1, len(text)), abs=1e-6)


def row(number, raw_bytes, share=0.0, source="a"):
    ranges = sum(raw_bytes > edge for edge in (0, *slices.EDGES)) or 1
    return {
        "id": str(number),
        "source": source,
        "raw_bytes": raw_bytes,
        "nats": float(ranges),
        "non_ascii": share,
        "position_nats": [1.0] * ranges,
    }


def test_bins_by_hand():
    rows = [
        row(0, 255),
        row(1, 256, 0.001),
        row(2, 1023, 0.005, "b"),
        row(3, 1024, 0.05),
        row(4, 20000, 0.9),
        row(5, 0),
    ]
    found = {name: part.documents.tolist() for name, part in slices.cut(rows).items()}
    assert found == {
        "source a": [0, 1, 3, 4, 5],
        "source b": [2],
        "length 0-255": [0, 5],
        "length 256-1023": [1, 2],
        "length 1024-4095": [3],
        "length 16384+": [4],
        "position 0-255": [0, 1, 2, 3, 4, 5],
        "position 256-1023": [2, 3, 4],
        "position 1024-4095": [4],
        "position 4096-16383": [4],
        "position 16384+": [4],
        "non-ascii 0%": [0, 5],
        "non-ascii 0-0.5%": [1],
        "non-ascii 0.5-5%": [2],
        "non-ascii 5%+": [3, 4],
    }
    assert slices.cut(rows)["position 256-1023"].raw_bytes.tolist() == [767, 768, 768]
    assert slices.cut(rows)["position 16384+"].raw_bytes.tolist() == [20000 - 16384]


@given(st.lists(st.tuples(st.integers(0, 30000), st.floats(0, 1), st.sampled_from("abc")), min_size=1, max_size=30))
def test_every_kind_of_slice_adds_up_to_the_whole(drawn):
    rows = [row(number, *values) for number, values in enumerate([*drawn, (7, 0.0, "a")])]
    parts = slices.cut(rows)
    total = sum(row["raw_bytes"] for row in rows)
    for kind in ("source", "length", "position", "non-ascii"):
        chosen = [part for name, part in parts.items() if name.split()[0] == kind]
        assert sum(part.raw_bytes.sum() for part in chosen) == total
        empty = sum(row["nats"] for row in rows if not row["raw_bytes"])  # a slice of empty documents only is left out
        nats = sum(part.nats(rows).sum() for part in chosen)
        assert 0 <= sum(row["nats"] for row in rows) - nats <= empty


def test_rows_of_the_first_format_give_what_they_can():
    new = [row(0, 300), row(1, 3)]
    old = [{key: value for key, value in row.items() if key in ("id", "source", "raw_bytes", "nats")} for row in new]
    assert slices.missing(new) == [] and slices.missing(new, old) == ["position", "non-ascii"]
    assert set(slices.cut(old, slices.missing(old))) == {"source a", "length 0-255", "length 256-1023"}


def test_the_documentation_has_these_bins():
    text = (ROOT / "docs/audits.md").read_text()
    assert f"raw bytes of the document: {', '.join(slices.BYTE_BINS)} |" in text
    assert f"share of the document's characters: {', '.join(slices.SHARE_BINS)} |" in text
    assert slices.BYTE_BINS == (
        *(f"{low}-{high - 1}" for low, high in zip((0, *slices.EDGES), slices.EDGES)),
        f"{slices.EDGES[-1]}+",
    )
