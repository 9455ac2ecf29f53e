"""Text to token ids and back, without loss: the scorer's (and the data tools') view of a tokenizer model.

Encoding is SentencePiece's on the canonical model; decoding is a table of each id's bytes, so that the bytes counted
are the bytes of the text. U+2581, which SentencePiece would read as a space, goes through its three byte pieces; a
space for which the vocabulary has no piece goes through the byte piece of the space. If the model says so, capitals are
operators (case_operators.py) in what SentencePiece sees.

Not covered: BOS and document borders (the shards and the scorer own them), training (golf data), the model's place
in an artifact (golf/tokenizer_section.py).
"""

import hashlib

import numpy as np
import sentencepiece

from golf import case_operators
from golf import tokenizer_section as model_format


def shown(text: str, operators: bool) -> str:
    """The text as SentencePiece sees it, in training and in use: itself, or with case operators."""
    return case_operators.apply(text) if operators else text


class Tokenizer:
    """A SentencePiece BPE model with byte fallback, used on raw text.

    model_bytes: a model file. operators: whether it was trained on text with case operators; default: as the file says,
    which a file from SentencePiece's trainer does not. Raises ValueError if it is not a model of this kit's kind (see
    golf/tokenizer_section.py). Attributes: `model_bytes` and `sha256`, of its canonical form, which does the work;
    `operators`: whether it has case operators; `vocab_size`; `lengths`, int64 [vocab_size], how many bytes of text each
    id stands for, an operator none.
    """

    def __init__(self, model_bytes: bytes, operators: bool | None = None):
        self.model_bytes = model_format.canonical(model_bytes, operators)
        self.sha256 = hashlib.sha256(self.model_bytes).hexdigest()
        self._pieces = model_format.piece_bytes(self.model_bytes)
        self.vocab_size = len(self._pieces)
        self.operators = model_format.case_operators(self.model_bytes)
        nothing = case_operators.ALL if self.operators else b""
        self.lengths = np.array([len(piece.translate(None, nothing)) for piece in self._pieces])
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=self.model_bytes)
        escaped = model_format.SPACE.encode("utf-8")
        self._escaped = np.array([model_format.FIRST_BYTE + byte for byte in escaped], dtype=np.uint16)
        self._has_space = b" " in self._pieces[model_format.FIRST_PIECE :]

    def encode(self, text: str) -> np.ndarray:
        """Ids [T] uint16 of a text, no BOS; `decode(encode(text)) == text.encode("utf-8")` for every text.

        Raises UnicodeEncodeError (a ValueError) for a str with lone surrogates, which has no UTF-8 form.
        """
        text.encode("utf-8")
        parts = []
        for index, part in enumerate(shown(text, self.operators).split(model_format.SPACE)):
            if index:
                parts.append(self._escaped)
            if part:
                ids = np.array(self._processor.encode(part), dtype=np.uint16)
                parts.append(ids if self._has_space else self._with_spaces(ids))
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)

    def _with_spaces(self, ids: np.ndarray) -> np.ndarray:
        """Ids of a text without U+2581 in which a space is one byte piece.

        SentencePiece writes a space as U+2581. Without a piece for it, that character falls back to three byte pieces,
        which would decode to U+2581. No other character has these three bytes.
        """
        width = len(self._escaped)
        windows = np.lib.stride_tricks.sliding_window_view(ids, width) if len(ids) >= width else np.empty((0, width))
        spaces = np.flatnonzero((windows == self._escaped).all(axis=1))
        ids[spaces] = model_format.FIRST_BYTE + ord(" ")
        return np.delete(ids, np.concatenate([spaces + offset for offset in range(1, width)]))

    def decode(self, ids) -> bytes:
        """The raw bytes that ids stand for (specials stand for none). Raises ValueError for an id out of range."""
        ids = np.asarray(ids)
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocab_size):
            raise ValueError(f"token id {int(ids.max())} is outside the vocabulary of {self.vocab_size}")
        data = b"".join(map(self._pieces.__getitem__, ids.tolist()))
        return case_operators.remove(data) if self.operators else data
