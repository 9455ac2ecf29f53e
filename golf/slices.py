"""Parts of a held-out split whose scores are reported apart: by source, by length of the document, by position in the
document, by share of non-ASCII characters. The bins are fixed, so that nobody can choose them after the fact.

Everything is computed from rows of eval.json's "per_document", so that a later comparison cuts as the score did. Length
and position are in raw bytes, which are the same whatever the tokenizer.

NOT covered: rows of eval.json files of format 1, which hold neither "non_ascii" nor "position_nats": they give slices
by source and by length only (`missing` says so).
"""

import dataclasses

import numpy as np

EDGES = (256, 1024, 4096, 16384)  # raw bytes: of lengths and of positions
BYTE_BINS = ("0-255", "256-1023", "1024-4095", "4096-16383", "16384+")
SHARES = (0.005, 0.05)  # of the characters: edges of the bins of non-ASCII shares above none
SHARE_BINS = ("0%", "0-0.5%", "0.5-5%", "5%+")
MIN_DOCUMENTS = 20  # a slice of fewer has no say in "the same sign on so many slices": its own sign is chance
FIELDS = {"position": "position_nats", "non-ascii": "non_ascii"}  # kinds that need a field of their own in each row


@dataclasses.dataclass(frozen=True)
class Slice:
    """Some documents, or one range of positions in them."""

    documents: np.ndarray  # their numbers [n]
    raw_bytes: np.ndarray  # [n] float64, of the range
    position: int | None = None  # number of the range; None: whole documents

    def nats(self, rows):
        """Nats float64 [n] of this slice in the rows of any score of these documents."""
        if self.position is None:
            return np.array([rows[number]["nats"] for number in self.documents])
        return np.array([rows[number]["position_nats"][self.position] for number in self.documents])


def position_nats(nats, symbol_bytes):
    """Nats of each range of positions that a document reaches, a list with 4 decimals.

    nats: float64 [T] of its symbols; symbol_bytes: int [T], how many raw bytes each stands for. The end symbol stands
    for none and goes to the last range; a symbol across an edge is shared out by its bytes."""
    ends, total = np.cumsum(symbol_bytes), np.cumsum(nats)
    edges = [edge for edge in EDGES if edge < ends[-1]]
    at_edges = np.interp(edges, np.append(0, ends), np.append(0.0, total))
    return np.round(np.diff([0.0, *at_edges, total[-1]]), 4).tolist()


def non_ascii(text):
    """Share of a text's characters that are not ASCII, with 6 decimals."""
    return round(1 - len(text.encode("ascii", "ignore")) / len(text), 6) if text else 0.0


def missing(*scores):
    """Kinds of slices that some of these lists of rows have no field for."""
    return [kind for kind, field in FIELDS.items() if any(field not in row for rows in scores for row in rows)]


def cut(rows, without=()):
    """{"KIND BIN": Slice} in order, of the documents in `rows`, but for the kinds `without`. A slice with no raw bytes
    is left out."""
    raw_bytes = np.array([row["raw_bytes"] for row in rows], dtype=float)
    sources = np.array([row["source"] for row in rows])
    found = {f"source {name}": _whole(raw_bytes, sources == name) for name in sorted(set(sources.tolist()))}
    lengths = np.searchsorted(EDGES, raw_bytes, side="right")
    found |= {f"length {name}": _whole(raw_bytes, lengths == number) for number, name in enumerate(BYTE_BINS)}
    if "position" not in without:
        for number, (low, high) in enumerate(zip((0, *EDGES), (*EDGES, np.inf))):
            documents = np.flatnonzero((raw_bytes > low) | (number == 0))
            part = np.minimum(raw_bytes[documents], high) - low
            found[f"position {BYTE_BINS[number]}"] = Slice(documents, part, number)
    if "non-ascii" not in without:
        shares = np.array([row["non_ascii"] for row in rows])
        shares = np.where(shares == 0, 0, 1 + np.searchsorted(SHARES, shares, side="right"))
        found |= {f"non-ascii {name}": _whole(raw_bytes, shares == number) for number, name in enumerate(SHARE_BINS)}
    return {name: part for name, part in found.items() if part.raw_bytes.sum()}


def _whole(raw_bytes, chosen):
    return Slice(np.flatnonzero(chosen), raw_bytes[chosen])
