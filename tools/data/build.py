"""Writes a data directory: tokenizer, shards, texts of the held-out splits, manifest (last: its presence means
complete).

Shards are the field's (golf/shards.py). A directory is written whole, by one writer at a time (golf/folders.py).

Not covered: where documents come from (embedded.py, text.py and hub.py beside this file), checks (check.py).
"""

import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece

from golf import folders, shards
from golf.files import Failure, read_json, sha256_file, write_json
from golf.foreign import terminal
from golf.progress import Progress
from golf.shards import BOS
from golf.tokenizer import Tokenizer, shown
from tools.data.dedup import (
    HELD_OUT,
    OVERLAP_LIMIT,
    OVERLAP_WORDS,
    deduplicate,
    in_bounds,
    raw_bytes,
    separate,
    split,
)
from tools.data.embedded import Document

SHARD_TOKENS = 100_000_000
SPLITS = ("train", *HELD_OUT)
HELD_OUT_BYTES = 1_150_000  # of each held-out split at most
USABLE_BYTES = 1_000_000  # of a held-out split: the interval of a score needs about that many
PARTS = 20  # each held-out split gets one of so many equal parts of the text
FORMAT = 1
# SentencePiece's sign for a space, its border of pieces in training (it skips a text that holds one) and its end of
# string: they stay bytes
RESERVED = dict.fromkeys(map(ord, "\u2581\u2585\0"))


def train_tokenizer(texts: list[str], vocab_size: int, operators: bool = False) -> Tokenizer:
    """A SentencePiece BPE tokenizer of exactly `vocab_size` ids, trained on texts; with case `operators` if asked for.

    Byte fallback, split digits, identity normalisation, no dummy prefix, whitespace kept. Raises Failure if the texts
    do not hold that many pieces. Single-threaded: the same texts give the same bytes.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([shown(text, operators).translate(RESERVED) for text in texts]),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=0.999,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            max_sentence_length=1 << 30,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            hard_vocab_limit=True,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        reason = in_our_words(str(error).strip().splitlines()[-1])
        raise Failure(f"cannot train a tokenizer of {vocab_size} ids on {len(texts)} documents: {reason}") from None
    return Tokenizer(model.getvalue(), operators)


def in_our_words(message: str) -> str:
    """A message of SentencePiece's trainer without names in its sources and options that the kit lacks."""
    if match := re.search(r"required_chars. \d+ vs (\d+)", message):
        return f"with the bytes, their characters alone take {match[1]} ids: choose --variant sp{match[1]} or larger"
    if match := re.search(r"too high .* a value <= (\d+)", message):
        return f"they hold no more than {match[1]} pieces: choose --variant sp{match[1]} or smaller, or add text"
    if "sentences_.empty()" in message:
        return "they hold nothing but characters that SentencePiece keeps for itself"
    return message


def write_shard(path: Path, tokens: np.ndarray) -> dict:
    """Writes one shard, returns its manifest entry. tokens: [T] uint16."""
    shards.write_shard(path, tokens)
    return {"name": path.name, "sha256": sha256_file(path), "size": path.stat().st_size, "tokens": len(tokens)}


def encode(documents: list[Document], tokenizer: Tokenizer, advance=lambda: None) -> np.ndarray:
    """BOS and ids of each document in turn: [T] uint16.

    Raises Failure if a document does not survive the round trip.
    """
    parts = []
    bos = np.array([BOS], dtype=np.uint16)
    for document in documents:
        ids = tokenizer.encode(document.text)
        if tokenizer.decode(ids) != document.text.encode("utf-8"):
            raise Failure(
                f"document {document.id} ({document.source}) does not survive the tokenizer: decode(encode(x)) != x"
            )
        parts += [bos, ids]
        advance()
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)


def write_docs(path: Path, documents: list[Document]) -> dict:
    """Writes the texts of a held-out split, one JSON object a line; returns its manifest entry."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            row = {"id": document.id, "source": document.source, "text": document.text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return {"name": path.name, "sha256": sha256_file(path), "size": path.stat().st_size}


def write_split(folder: Path, name: str, documents: list[Document], tokenizer: Tokenizer, advance=lambda: None) -> dict:
    """Writes the shards (and, of a held-out split, the texts) of one split; returns its part of the manifest."""
    tokens = encode(documents, tokenizer, advance)
    files: list[dict] = []
    for index, start in enumerate(range(0, max(len(tokens), 1), SHARD_TOKENS)):
        files.append(write_shard(folder / f"{name}_{index:06d}.bin", tokens[start : start + SHARD_TOKENS]))
    if name in HELD_OUT:
        files.append(write_docs(folder / f"{name}_docs.jsonl", documents))
    return {
        "documents": len(documents),
        "raw_bytes": sum(len(document.text.encode("utf-8")) for document in documents),
        "tokens": len(tokens),
        "files": files,
        "sources": count_sources(documents),
    }


def count_sources(documents: Iterable[Document]) -> dict:
    """{source: {"documents", "raw_bytes"}}, sorted by name."""
    sources: dict[str, dict[str, int]] = {}
    for document in documents:
        entry = sources.setdefault(document.source, {"documents": 0, "raw_bytes": 0})
        entry["documents"] += 1
        entry["raw_bytes"] += len(document.text.encode("utf-8"))
    return dict(sorted(sources.items()))


@dataclass
class Prepared:
    """Documents of each split, what was dropped on the way, by reason, and what the user should know of it."""

    splits: dict[str, list[Document]]
    dropped: dict[str, int]
    notes: list[str]


def prepare(documents: list[Document], held_out_bytes: int) -> Prepared:
    """Deduplicates documents, splits them, and drops what shares passages with another split.

    Each held-out split gets a twentieth of what is left after deduplication, at most `held_out_bytes`. Raises Failure
    if a split would be empty."""
    with Progress() as progress:
        progress.phase("searching for duplicates", total=2 * len(documents))
        kept, dropped = deduplicate(documents, progress.advance)
        total = sum(map(raw_bytes, kept))
        held_out_bytes = min(held_out_bytes, total // PARTS)
        splits = split(kept, held_out_bytes)
        if not all(splits.values()):
            raise Failure(
                f"{len(documents)} documents are too few: {len(kept)} of them are left after deduplication, and it "
                f"takes {len(SPLITS)}, one for each split"
            )
        notes = sizes_in_words(splits, held_out_bytes)
        progress.phase("searching for passages that splits share", total=len(kept), unit="documents")
        separated, shared = separate(splits, progress.advance)
    for name, members in separated.items():
        if not members:
            raise Failure(
                f"all {len(splits[name])} documents of the {name} split share more than {OVERLAP_LIMIT:.0%} of their "
                f"passages ({OVERLAP_WORDS} words) with another split: nothing is left of it"
            )
    dropped |= {"shared": shared}
    return Prepared(separated, dropped, dropped_in_words(dropped) + notes)


def dropped_in_words(dropped: dict[str, int]) -> list[str]:
    """A line that counts the documents that were dropped; none if there are none."""
    words = {
        "exact": "copies of others or without a word",
        "near": "near-copies",
        "shared": "that share passages with another split",
    }
    counts = [f"{dropped[reason]:,} {text}" for reason, text in words.items() if dropped[reason]]
    return [f"documents dropped: {', '.join(counts)}"] if counts else []


def sizes_in_words(splits: dict[str, list[Document]], held_out_bytes: int) -> list[str]:
    """A line for each thing about the sizes of held-out splits that is not as it should be."""
    sizes = {name: sum(map(raw_bytes, members)) for name, members in splits.items()}
    total, notes = sum(sizes.values()), []
    large = [document for document in splits["train"] if raw_bytes(document) > held_out_bytes]
    if large:
        largest = max(large, key=raw_bytes)
        notes.append(
            f"{len(large):,} documents are larger than a held-out split, which gets {held_out_bytes:,} bytes: they are "
            f"in train; the largest has {raw_bytes(largest):,} bytes: {describe(largest.text, largest.source)}"
        )
    if not all(in_bounds(sizes[name], held_out_bytes) for name in HELD_OUT):
        shares = ", ".join(f"{name} {sizes[name] / total:.1%}" for name in HELD_OUT)
        notes.append(
            f"whole documents came to other shares of the text than {held_out_bytes / total:.1%} for each held-out "
            f"split: {shares}"
        )
    if held_out_bytes < USABLE_BYTES:
        notes.append(
            f"only {total:,} bytes of text after deduplication: each held-out split gets about {held_out_bytes:,} (for "
            f"a usable interval of the score it takes {USABLE_BYTES:,}, that is {USABLE_BYTES * PARTS:,} bytes of text)"
        )
    return notes


def describe(text: str, source: str) -> str:
    """How a document is named in a message: id (source) "first words"."""
    first = " ".join(text.split(maxsplit=8)[:8])
    return f'{Document(text, source).id} ({source}) "{first[:80]}"'


def build(documents: list[Document], out: Path, manifest: dict, variant: tuple[int, bool], held_out_bytes: int) -> dict:
    """Builds the data directory `out` from documents; returns the manifest.

    manifest: the fields that the caller knows ("name", "parameters", "sources"); variant: size of the vocabulary,
    whether it has case operators; held_out_bytes: the most that a held-out split gets. Says on stderr what was dropped,
    and what is odd about the splits. Raises Failure if a split would be empty.
    """
    prepared = prepare(documents, held_out_bytes)
    splits = prepared.splits
    for note in prepared.notes:
        print(terminal(note, 1000), file=sys.stderr)
    with Progress() as progress, directory(out) as folder:
        progress.phase("training the tokenizer")
        tokenizer = train_tokenizer([document.text for document in splits["train"]], *variant)
        progress.phase("writing shards", total=sum(map(len, splits.values())), unit="documents")
        entries = {name: write_split(folder, name, splits[name], tokenizer, progress.advance) for name in SPLITS}
        (folder / "tokenizer.model").write_bytes(tokenizer.model_bytes)
        manifest = {
            "format": FORMAT,
            **manifest,
            "text": "raw",
            "tokenizer": tokenizer_entry(tokenizer),
            "splits": entries,
            "dropped": prepared.dropped,
        }
        write_json(folder / "manifest.json", manifest)
    return manifest


def tokenizer_entry(tokenizer: Tokenizer) -> dict:
    """The manifest's entry for tokenizer.model."""
    return {"file": "tokenizer.model", "sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size}


@contextmanager
def directory(out: Path) -> Iterator[Path]:
    """A fresh folder that becomes the data directory `out` when the block ends well, and goes when it does not. For the
    only writer of `out` (golf/folders.py)."""
    with folders.replaced(out, judge) as folder:
        yield folder
        folders.sync_tree(folder)


def judge(out: Path) -> None:
    """Raises Failure if a folder lies at `out` that is no data directory, or holds a file that its manifest does not
    list: what somebody else put there is not to be replaced."""
    manifest = out / "manifest.json"
    if manifest.is_file():
        folders.judge_listed(out, {"manifest.json", *listed(manifest)}, "the data set that would be replaced")
    elif out.exists() and any(out.iterdir()):
        raise Failure(f"{out} exists but is no data directory (no manifest.json): choose another --out or remove it")


def listed(manifest: Path) -> dict[str, int | None]:
    """{name: bytes} of the files of a data directory, by its manifest.json; None where it does not say how many.
    Failure if it is not the manifest of one."""
    try:
        value = read_json(manifest)
        files = [item for entry in value["splits"].values() for item in entry["files"]]
        return {value["tokenizer"]["file"]: None, **{item["name"]: item["size"] for item in files}}
    except (AttributeError, KeyError, TypeError):
        raise Failure(
            f"{manifest}: not the manifest of a data set: choose another --out or remove the folder"
        ) from None
