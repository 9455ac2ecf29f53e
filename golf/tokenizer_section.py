"""The tokenizer as a section of the artifact: a compact payload, and the SentencePiece model it stands for.

A tokenizer of this kit is a SentencePiece BPE model with byte fallback whose ids are pad, bos, eos, unk, the 256 bytes,
then the pieces in the order of their merge priority. Given that convention the list of pieces is the whole model, so
the payload is that list, compressed; everything else of the model file is written by `canonical`, bit for bit the same
wherever it is rebuilt. A model may be one of texts with case operators (golf/case_operators.py): then its normaliser
has that name, which SentencePiece does not read, and the payload's text begins with a line feed.

Not covered: encoding and decoding text (golf/tokenizer.py), training (golf data), SentencePiece models of other
kinds (unigram, user-defined symbols): they are refused. The canonical form's normaliser changes nothing, so a model
trained with one that does keeps its pieces and segments raw text with them.

Source of the field numbers: sentencepiece_model.proto of the SentencePiece project.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from golf.container import compress, decompress
from golf.files import read_bytes

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")  # ids 0..3
FIRST_BYTE = len(SPECIALS)  # id of the piece of byte 0
FIRST_PIECE = FIRST_BYTE + 256
SPACE = "\u2581"  # how SentencePiece writes a space inside a piece
MAX_VOCAB = 65536  # ids are uint16
MAX_TEXT_BYTES = 4_000_000  # of all pieces together: 61 bytes a piece at the largest vocabulary

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # ModelProto.SentencePiece.Type
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf wire types
IDENTITY, CASE_OPERATORS = b"identity", b"case_operators"  # names of normalisers
BPE = 2  # TrainerSpec.ModelType


def from_file(path: Path) -> bytes:
    """The canonical model of a SentencePiece .model file. Raises ValueError where `canonical` does, and Failure."""
    return canonical(read_bytes(path))


def serialise(model_bytes: bytes) -> bytes:
    """The TOKN payload of a SentencePiece model: its pieces, one a line, compressed.

    `rebuild(serialise(m)) == canonical(m)`. Raises ValueError where `canonical` does.
    """
    # A space takes one byte where U+2581 takes three; 0xff, which UTF-8 never uses, stands for a newline in a piece.
    pieces = _pieces(model_bytes)
    lines = [piece.replace(SPACE, " ").encode("utf-8").replace(b"\n", b"\xff") for piece in pieces]
    return compress(b"\n" * case_operators(model_bytes) + b"\n".join(lines))


def rebuild(payload: bytes) -> bytes:
    """The canonical model of a payload written by `serialise`.

    Raises ValueError on anything that `serialise` does not write; never allocates more than MAX_TEXT_BYTES for the
    text.
    """
    text = decompress(payload, MAX_TEXT_BYTES)
    pieces, operators = [], text.startswith(b"\n")  # no piece is empty
    if text := text.removeprefix(b"\n"):
        for index, line in enumerate(text.split(b"\n")):
            try:
                pieces.append(line.replace(b"\xff", b"\n").decode("utf-8"))
            except UnicodeDecodeError:
                raise ValueError(f"tokenizer payload: piece {FIRST_PIECE + index} is not valid UTF-8") from None
    return _write(pieces, operators)


def canonical(model_bytes: bytes, operators: bool | None = None) -> bytes:
    """The canonical SentencePiece ModelProto with the same pieces in the same order, for texts with case `operators`
    or without; by default as the model says.

    No normalisation, no dummy prefix, whitespace kept, byte fallback, scores 0, -1, -2, ... from the first piece on.
    Raises ValueError if the model is not BPE with byte fallback on the ids of this kit, or does not parse.
    """
    return _write(_pieces(model_bytes), case_operators(model_bytes) if operators is None else operators)


def case_operators(model_bytes: bytes) -> bool:
    """Whether the model is one of texts with case operators. Raises ValueError if it does not parse."""
    specs = [dict(_fields(value, {1: BYTES})) for _, value in _fields(model_bytes, {3: BYTES})]
    return any(spec.get(1) == CASE_OPERATORS for spec in specs)


def piece_bytes(model_bytes: bytes) -> list[bytes]:
    """For each id of a model, the bytes of text it stands for; the four specials stand for none."""
    text = [piece.replace(SPACE, " ").encode("utf-8") for piece in _pieces(model_bytes)]
    return [b""] * len(SPECIALS) + [bytes([value]) for value in range(256)] + text


def _write(pieces: list[str], operators: bool = False) -> bytes:
    if FIRST_PIECE + len(pieces) > MAX_VOCAB:
        raise ValueError(f"tokenizer: {FIRST_PIECE + len(pieces)} ids, but an id has 16 bits (at most {MAX_VOCAB})")
    seen = set()
    for index, piece in enumerate(pieces):
        if not piece or piece in seen or "\0" in piece:
            what = "is empty" if not piece else "holds a NUL" if "\0" in piece else f"{piece!r} stands twice"
            raise ValueError(f"tokenizer: piece {FIRST_PIECE + index} {what}")
        seen.add(piece)
    out = bytearray()
    types = (CONTROL, CONTROL, CONTROL, UNKNOWN)
    entries = [(name, 0.0, kind) for name, kind in zip(SPECIALS, types, strict=True)]
    entries += [(f"<0x{value:02X}>", 0.0, BYTE) for value in range(256)]
    entries += [(piece.replace(" ", SPACE), -float(index), NORMAL) for index, piece in enumerate(pieces)]
    for piece, score, kind in entries:
        body = _field(1, piece.encode("utf-8")) + _key(2, FIXED32) + struct.pack("<f", score) + _field(3, kind)
        out += _field(1, body)
    trainer = _field(3, BPE) + _field(4, len(entries)) + _field(35, 1)
    trainer += _field(40, 3) + _field(41, 1) + _field(42, 2) + _field(43, 0)  # unk, bos, eos, pad
    out += _field(2, trainer)
    # name; add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces
    name = CASE_OPERATORS if operators else IDENTITY
    out += _field(3, _field(1, name) + _field(3, 0) + _field(4, 0) + _field(5, 1))
    return bytes(out)


def _pieces(model_bytes: bytes) -> list[str]:
    """The pieces from id 260 on, in id order (= merge priority), after checking all that the payload leaves out."""
    entries, model_type, byte_fallback = [], None, False
    for number, value in _fields(model_bytes, {1: BYTES, 2: BYTES}):
        if number == 1:
            entry = dict(_fields(value, {1: BYTES, 2: FIXED32, 3: VARINT}))
            score = struct.unpack("<f", entry.get(2, b"\0\0\0\0"))[0]
            entries.append((_text(entry.get(1, b"")), score, entry.get(3, NORMAL)))
        else:
            trainer = dict(_fields(value, {3: VARINT, 35: VARINT}))
            model_type, byte_fallback = trainer.get(3, 1), bool(trainer.get(35, 0))
    if model_type != BPE or not byte_fallback:
        raise ValueError("tokenizer: not a SentencePiece BPE model with byte fallback (train it with golf data)")
    expected = [(name, CONTROL) for name in SPECIALS[:3]] + [(SPECIALS[3], UNKNOWN)]
    expected += [(f"<0x{value:02X}>", BYTE) for value in range(256)]
    for index, want in enumerate(expected):
        got = (entries[index][0], entries[index][2]) if index < len(entries) else None
        if got != want:
            raise ValueError(f"tokenizer: id {index} must be {want[0]} (pad, bos, eos, unk, then the 256 bytes)")
    rest = entries[FIRST_PIECE:]
    for index, (piece, score, kind) in enumerate(rest):
        if kind != NORMAL:
            raise ValueError(f"tokenizer: id {FIRST_PIECE + index} ({piece!r}) is not a normal piece (type {kind})")
        if index and not score < rest[index - 1][1]:
            raise ValueError(f"tokenizer: id {FIRST_PIECE + index} ({piece!r}) is not in the order of merge priority")
    return [piece for piece, _, _ in rest]


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("tokenizer: a piece of the model is not valid UTF-8") from None


def _fields(data: bytes, wanted: dict[int, int]) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of the wanted fields (number: wire type) of a protobuf message: int for a varint, else bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
        else:
            size = 8 if kind == FIXED64 else 4
            if kind == BYTES:
                size, at = _varint(data, at)
            elif kind not in (FIXED64, FIXED32):
                raise ValueError("tokenizer: not a SentencePiece model (unknown protobuf wire type)")
            value, at = data[at : at + size], at + size
            if at > len(data):
                raise ValueError("tokenizer: the SentencePiece model is cut short")
        if key >> 3 in wanted:
            if kind != wanted[key >> 3]:
                raise ValueError("tokenizer: not a SentencePiece model (a field has another type)")
            yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("tokenizer: the SentencePiece model is cut short")
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def _key(number: int, kind: int) -> bytes:
    return _number(number << 3 | kind)


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _key(number, VARINT) + _number(value)
    return _key(number, BYTES) + _number(len(value)) + value


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
