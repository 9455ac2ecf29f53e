"""Writes a data directory: tokenizer, shards, texts of the held-out splits, manifest (last: its presence means
complete).

Shards are the field's (golf/shards.py). Everything is written into a temporary sibling folder, which takes the
directory's name at the end.

Not covered: where documents come from (embedded.py, text.py and hub.py beside this file), checks (check.py).
"""

import io
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import sentencepiece

from golf import shards
from golf.files import Failure, sha256_file, write_json
from golf.progress import Progress
from golf.shards import BOS
from golf.tokenizer import Tokenizer, shown
from tools.data.dedup import HELD_OUT, deduplicate, separate, split
from tools.data.embedded import Document

SHARD_TOKENS = 100_000_000
SPLITS = ("train", *HELD_OUT)
HELD_OUT_BYTES = 1_150_000  # of each held-out split of the embedded corpus; the scorer's interval needs about 1 MB
FORMAT = 1


def train_tokenizer(texts: list[str], vocab_size: int, operators: bool = False) -> Tokenizer:
    """A SentencePiece BPE tokenizer of exactly `vocab_size` ids, trained on texts; with case `operators` if asked for.

    Byte fallback, split digits, identity normalisation, no dummy prefix, whitespace kept. Raises Failure if the texts
    do not hold that many pieces. Single-threaded: the same texts give the same bytes.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            # U+2581 is SentencePiece's own sign for a space, NUL its end of string: both stay bytes.
            sentence_iterator=iter([shown(text, operators).replace("\u2581", "").replace("\0", "") for text in texts]),
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
        reason = str(error).strip().splitlines()[-1]
        raise Failure(f"cannot train a tokenizer of {vocab_size} ids on {len(texts)} documents: {reason}") from None
    return Tokenizer(model.getvalue(), operators)


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


def prepare(documents: list[Document], held_out_bytes: int) -> tuple[dict[str, list[Document]], dict]:
    """Deduplicated, split and separated documents, and what was dropped, by reason."""
    with Progress() as progress:
        progress.phase("searching for duplicates", total=2 * len(documents))
        kept, dropped = deduplicate(documents, progress.advance)
        splits = split(kept, held_out_bytes)
        progress.phase("searching for passages that splits share", total=len(kept), unit="documents")
        splits, shared = separate(splits, progress.advance)
    return splits, {**dropped, "shared": shared}


def build(documents: list[Document], out: Path, manifest: dict, variant: tuple[int, bool], held_out_bytes: int) -> dict:
    """Builds the data directory `out` from documents; returns the manifest.

    manifest: the fields that the caller knows ("name", "parameters", "sources"); variant: size of the vocabulary,
    whether it has case operators. Raises Failure if a split would be empty.
    """
    splits, dropped = prepare(documents, held_out_bytes)
    for name in SPLITS:
        if not splits[name]:
            raise Failure(f"{len(documents)} documents are too few: after deduplication the {name} split is empty")
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
            "dropped": dropped,
        }
        write_json(folder / "manifest.json", manifest)
    return manifest


def tokenizer_entry(tokenizer: Tokenizer) -> dict:
    """The manifest's entry for tokenizer.model."""
    return {"file": "tokenizer.model", "sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size}


@contextmanager
def directory(out: Path) -> Iterator[Path]:
    """A fresh temporary folder beside `out` that replaces it when the block ends well, and is removed when it does
    not.
    """
    folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        # Whatever lay there goes only now that its successor is complete.
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
