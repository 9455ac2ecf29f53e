"""Text to token ids and back, without loss: the scorer's (and the data tools') view of a tokenizer model.

Encoding is SentencePiece's on the canonical model; decoding is a table of each id's bytes, so that the bytes counted
are the bytes of the text. U+2581, which SentencePiece would read as a space, goes through its three byte pieces.

Not covered: BOS and document borders (the shards and the scorer own them), training (tools/data.py), the model's place
in an artifact (compress/tokenizer.py).
"""

import hashlib

import numpy as np
import sentencepiece

from compress import tokenizer as model_format


class Tokenizer:
    """A SentencePiece BPE model with byte fallback, used on raw text.

    model_bytes: a model file. Raises ValueError if it is not a model of this kit's kind (see compress/tokenizer.py).
    Attributes: `model_bytes` and `sha256`, of its canonical form (identity normaliser), which does the work;
    `vocab_size`; `lengths`, int64 [vocab_size], how many bytes each id stands for.
    """

    def __init__(self, model_bytes: bytes):
        self.model_bytes = model_format.canonical(model_bytes)
        self.sha256 = hashlib.sha256(self.model_bytes).hexdigest()
        self._pieces = model_format.piece_bytes(self.model_bytes)
        self.vocab_size = len(self._pieces)
        self.lengths = np.array([len(piece) for piece in self._pieces])
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=self.model_bytes)
        escaped = model_format.SPACE.encode("utf-8")
        self._escaped = np.array([4 + byte for byte in escaped], dtype=np.uint16)

    def encode(self, text: str) -> np.ndarray:
        """Ids [T] uint16 of a text, no BOS; `decode(encode(text)) == text.encode("utf-8")` for every text.

        Raises UnicodeEncodeError (a ValueError) for a str with lone surrogates, which has no UTF-8 form.
        """
        text.encode("utf-8")
        parts = []
        for index, part in enumerate(text.split(model_format.SPACE)):
            if index:
                parts.append(self._escaped)
            if part:
                parts.append(np.array(self._processor.encode(part), dtype=np.uint16))
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)

    def decode(self, ids) -> bytes:
        """The raw bytes that ids stand for (specials stand for none). Raises ValueError for an id out of range."""
        ids = np.asarray(ids)
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocab_size):
            raise ValueError(f"token id {int(ids.max())} is outside the vocabulary of {self.vocab_size}")
        return b"".join(map(self._pieces.__getitem__, ids.tolist()))
