"""Checks a data directory: files, tokens, texts, and that no document or passage stands on both sides of a split.

Goes on after the first fault, so that one run names all of them: a changed file is still searched for duplicates.
Documents are taken from the shards as well as from the texts beside them.

Not covered: whether the text is any good; paraphrases; duplicates inside one split.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from golf.files import Failure, read_bytes, read_json, sha256_file
from golf.foreign import terminal
from golf.progress import Progress
from golf.shards import BOS, read_shard, shard_bytes
from golf.tokenizer import Tokenizer
from tools.data.build import SPLITS, describe
from tools.data.dedup import HELD_OUT, OVERLAP_LIMIT, OVERLAP_WORDS, overlap, shingles, sorted_unique, words

BATCH_BYTES = 1 << 22  # of text compared at a time
MAX_NAME_BYTES = 255  # of a file: what the usual file systems take


@dataclass
class Split:
    """What the search for duplicates keeps of a held-out split."""

    hashes: np.ndarray
    offsets: np.ndarray
    names: list[str]
    texts: dict[bytes, str]  # digest of the text -> how to name the document


@dataclass
class Report:
    """`errors` make the check fail; `notes` do not. `overlap` has a row for each pair of splits compared."""

    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    overlap: list[dict] = field(default_factory=list)


def check(folder: Path) -> Report:
    """Reads all of a data directory. Raises Failure if it has no readable manifest or tokenizer."""
    if not folder.is_dir():
        raise Failure(f"{folder}: no such folder (make the embedded corpus with: golf data embedded)")
    manifest = read_json(folder / "manifest.json", ("format", "text", "tokenizer", "splits"))
    report = Report()
    validate(folder, manifest)
    tokenizer = _tokenizer(folder, manifest, report)
    public = manifest["text"] != "raw"
    entries = manifest["splits"]
    held_out: dict[str, Split] = {}
    with Progress() as progress:
        total = sum(entries[name]["documents"] for name in SPLITS)
        progress.phase("checking", total=total, unit="documents")
        for name in HELD_OUT:
            _files(folder, name, entries[name], report)
            rows = _rows(folder / f"{name}_docs.jsonl", report)
            held_out[name] = _held_out(folder, name, entries[name], rows, tokenizer, report, progress.advance)
        _compare_held_out(held_out, public, report)
        _files(folder, "train", entries["train"], report)
        _train(folder, entries["train"], tokenizer, held_out, public, report, progress.advance)
    return report


def validate(folder: Path, manifest: dict) -> None:
    """Raises Failure unless the manifest has the fields that the check reads, with values of their types."""
    shape = {"documents": int, "tokens": int, "raw_bytes": int | None, "files": list, "sources": dict}
    splits = manifest["splits"]
    if not isinstance(manifest["tokenizer"], dict) or not isinstance(splits, dict):
        raise Failure(f"{folder / 'manifest.json'}: tokenizer and splits must be objects")
    for name in {**dict.fromkeys(SPLITS), **splits}:
        entry = splits.get(name)
        if not isinstance(entry, dict):
            raise Failure(f"{folder / 'manifest.json'}: split {terminal(name, 60)} is missing")
        for key, kind in shape.items():
            if key not in entry or not isinstance(entry[key], kind):
                raise Failure(f"{folder / 'manifest.json'}: split {terminal(name, 60)} has no good {key!r}")
        for item in entry["files"]:
            check_file(folder, name, item)
    if not isinstance(manifest["tokenizer"].get("vocab_size"), int):
        raise Failure(f"{folder / 'manifest.json'}: its tokenizer has no good 'vocab_size'")


def check_file(folder: Path, split: str, item: object) -> None:
    """Raises Failure unless a manifest's entry of a file has a name without a folder, and numbers where they belong."""
    where = f"{folder / 'manifest.json'}: split {terminal(split, 60)} lists"
    kinds = {"name": str, "sha256": str, "size": int}
    if isinstance(item, dict) and str(item.get("name")).endswith(".bin"):
        kinds["tokens"] = int
    if not isinstance(item, dict) or not all(type(item.get(key)) is kind for key, kind in kinds.items()):
        raise Failure(f"{where} a file without a good name, sha256, size or tokens")
    name_bytes = len(item["name"].encode(errors="surrogatepass"))
    if item["name"] in ("", ".", "..") or re.search("[/\0]", item["name"]) or name_bytes > MAX_NAME_BYTES:
        raise Failure(f"{where} {terminal(item['name'], 100)!r}, which is not a plain file name")


def _tokenizer(folder: Path, manifest: dict, report: Report) -> Tokenizer:
    path = folder / "tokenizer.model"
    try:
        model = read_bytes(path)
        tokenizer = Tokenizer(model)
    except ValueError as error:
        raise Failure(f"{path}: {error}") from None
    entry = manifest["tokenizer"]
    if hashlib.sha256(model).hexdigest() != entry.get("sha256"):
        report.errors.append("tokenizer.model: its SHA-256 is not the manifest's")
    if tokenizer.model_bytes != model:
        report.errors.append("tokenizer.model: not in canonical form")
    if tokenizer.vocab_size != entry.get("vocab_size"):
        report.errors.append(
            f"tokenizer.model: {tokenizer.vocab_size} ids, the manifest says {entry.get('vocab_size')}"
        )
    return tokenizer


def _files(folder: Path, name: str, entry: dict, report: Report) -> None:
    """Sizes and hashes of a split's files; files of the split that the manifest does not list."""
    listed = {item["name"]: item for item in entry["files"]}
    for path in sorted(folder.glob(f"{name}_*")):
        if path.name not in listed:
            report.errors.append(f"{path.name}: not in the manifest")
    for file, item in listed.items():
        path = folder / file
        if not path.is_file():
            report.errors.append(f"{file}: missing")
        elif path.stat().st_size != item["size"]:
            report.errors.append(f"{file}: {path.stat().st_size:,} bytes, the manifest says {item['size']:,}")
        elif sha256_file(path) != item["sha256"]:
            report.errors.append(f"{file}: its SHA-256 is not the manifest's")


def _rows(path: Path, report: Report) -> list[dict]:
    """The rows of a split's texts; malformed rows are reported and left out."""
    rows: list[dict] = []
    if not path.is_file():
        return rows  # reported with the files
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
            digest = hashlib.sha256(row["text"].encode("utf-8")).hexdigest()
            row = {"id": row["id"], "source": row["source"], "text": row["text"]}
            if not isinstance(row["source"], str):
                raise TypeError("a source that is no text")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            report.errors.append(f"{path.name}:{number}: not an object with id, source and text")
            continue
        if row["id"] != digest[:16]:
            report.errors.append(
                f"{path.name}:{number}: its id {row['id']} is not the hash of its text ({digest[:16]})"
            )
        rows.append(row)
    return rows


def documents(folder: Path, name: str, entry: dict, tokenizer: Tokenizer, report: Report) -> Iterator[bytes]:
    """The raw bytes of each document of a split's shards; a document may run from one shard into the next.

    Reports what is wrong with headers and tokens, and compares their counts with the manifest.
    """
    carried, total, count = np.empty(0, dtype=np.uint16), 0, 0
    strange = 0
    for item in entry["files"]:
        if not item["name"].endswith(".bin"):
            continue
        tokens = _shard(folder / item["name"], item, report)
        total += len(tokens)
        outside = int((tokens >= tokenizer.vocab_size).sum())
        if outside:
            top = int(tokens.max())
            report.errors.append(f"{item['name']}: {outside} tokens outside the vocabulary (up to {top})")
            tokens = tokens[tokens < tokenizer.vocab_size]
        strange += int(((tokens < 4) & (tokens != BOS)).sum())
        tokens = np.concatenate([carried, tokens])
        starts = np.flatnonzero(tokens == BOS)
        if len(tokens) and (not len(starts) or starts[0] != 0):
            report.errors.append(f"{item['name']}: its first token is not BOS")
            starts = np.concatenate([[0], starts])
        count += max(len(starts) - 1, 0)
        for start, end in zip(starts[:-1], starts[1:], strict=True):
            yield tokenizer.decode(tokens[start:end])
        carried = tokens[starts[-1] :] if len(starts) else tokens
    if len(carried):
        count += 1
        yield tokenizer.decode(carried)
    if strange:
        report.errors.append(f"{name}: {strange} pad, eos or unk tokens inside documents")
    for what, found in (("documents", count), ("tokens", total)):
        if found != entry[what]:
            report.errors.append(f"{name}: {found:,} {what} in its shards, the manifest says {entry[what]:,}")


def _shard(path: Path, item: dict, report: Report) -> np.ndarray:
    """The tokens of a shard, and as many as its size allows where the header is wrong."""
    try:
        tokens = read_shard(path)
    except Failure as error:
        if not path.is_file():
            return np.empty(0, dtype=np.uint16)  # reported with the files
        report.errors.append(str(error).removeprefix(f"{path.parent}/"))
        data = path.read_bytes()[shard_bytes(0) :]
        return np.frombuffer(data[: len(data) & ~1], dtype="<u2")
    if len(tokens) != item["tokens"]:
        report.errors.append(f"{path.name}: {len(tokens):,} tokens, the manifest says {item['tokens']:,}")
    return np.asarray(tokens)


def _held_out(
    folder: Path, name: str, entry: dict, rows: list[dict], tokenizer: Tokenizer, report: Report, advance
) -> Split:
    """Compares a held-out split's shards with its texts, and prepares the union of both for the search."""
    found: dict[bytes, tuple[str, str]] = {}  # digest -> (text, source)
    for row in rows:
        found.setdefault(_digest(row["text"].encode("utf-8")), (row["text"], row["source"]))
    sources: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = sources.setdefault(row["source"], {"documents": 0, "raw_bytes": 0})
        counts["documents"] += 1
        counts["raw_bytes"] += len(row["text"].encode("utf-8"))
    if sources != entry["sources"] or sum(counts["raw_bytes"] for counts in sources.values()) != entry["raw_bytes"]:
        report.errors.append(f"{name}_docs.jsonl: documents and bytes by source are not the manifest's")
    different, index = [], -1
    for index, raw in enumerate(documents(folder, name, entry, tokenizer, report)):
        if index >= len(rows) or raw != rows[index]["text"].encode("utf-8"):
            different.append(index)
            found.setdefault(_digest(raw), (raw.decode("utf-8", errors="replace"), "unknown source"))
    if different or index + 1 != len(rows):
        at = f", the first at document {different[0] + 1}" if different else ""
        report.errors.append(
            f"{name}: decoded shard and texts differ ({index + 1} documents in the shard, {len(rows)} texts, "
            f"{len(different)} of them not the text in their place{at})"
        )
    names = {digest: describe(text, source) for digest, (text, source) in found.items()}
    hashed = []
    for text, _ in found.values():
        hashed.append(words(text))
        advance()
    return Split(*shingles(hashed, OVERLAP_WORDS), list(names.values()), names)


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


def _compare_held_out(splits: dict[str, Split], public: bool, report: Report) -> None:
    names = list(splits)
    for position, later in enumerate(names):
        for earlier in names[:position]:
            for digest in splits[later].texts.keys() & splits[earlier].texts.keys():
                report.errors.append(f"document in {earlier} and {later}: {splits[later].texts[digest]}")
            shares = overlap(splits[later].hashes, splits[later].offsets, sorted_unique(splits[earlier].hashes))
            _shares(later, earlier, splits[later], shares, public, report)


def _train(
    folder: Path, entry: dict, tokenizer: Tokenizer, held_out: dict[str, Split], public: bool, report: Report, advance
) -> None:
    """Streams the training documents past the held-out ones."""
    tables = {name: sorted_unique(split.hashes) for name, split in held_out.items()}
    seen = {name: np.zeros(len(table), dtype=bool) for name, table in tables.items()}
    repeated: dict[str, set[bytes]] = {name: set() for name in held_out}
    everything = sorted_unique(np.concatenate([*tables.values(), np.empty(0, dtype=np.uint64)]))
    contained = 0

    def compare(batch: list[bytes]) -> int:
        hashes, offsets = shingles([words(raw.decode("utf-8", errors="replace")) for raw in batch], OVERLAP_WORDS)
        for name, table in tables.items():
            if len(table):
                place = np.minimum(np.searchsorted(table, hashes), len(table) - 1)
                seen[name][place[table[place] == hashes]] = True
        for raw in batch:
            digest = _digest(raw)
            for name, split in held_out.items():
                if digest in split.texts and digest not in repeated[name]:
                    repeated[name].add(digest)
                    # The published validation set and training shards are what they are; the kit's own splits must not
                    # leak.
                    found = report.notes if public and name == "dev" else report.errors
                    found.append(f"document in train and {name}: {split.texts[digest]}")
        return int((overlap(hashes, offsets, everything) > OVERLAP_LIMIT).sum())

    batch, size = [], 0
    for raw in documents(folder, "train", entry, tokenizer, report):
        batch.append(raw)
        size += len(raw)
        if size >= BATCH_BYTES:
            contained += compare(batch)
            advance(len(batch))
            batch, size = [], 0
    contained += compare(batch)
    advance(len(batch))
    for name, split in held_out.items():
        _shares(name, "train", split, overlap(split.hashes, split.offsets, tables[name][seen[name]]), public, report)
    if contained:
        found = report.notes if public else report.errors
        found.append(
            f"{contained} training documents share more than {OVERLAP_LIMIT:.0%} of their "
            f"{OVERLAP_WORDS}-word shingles with held-out text"
        )


def _shares(name: str, other: str, split: Split, shares: np.ndarray, public: bool, report: Report) -> None:
    """A row of the table, and a line for each document that shares too much with another split."""
    lengths = np.diff(split.offsets)
    over = np.flatnonzero(shares > OVERLAP_LIMIT)
    report.overlap.append(
        {
            "split": name,
            "against": other,
            "documents": len(shares),
            "shingles": int(lengths.sum()),
            "shared": float((shares * lengths).sum() / max(lengths.sum(), 1)),
            "over_limit": len(over),
            "highest": float(shares.max(initial=0.0)),
        }
    )
    for index in over:
        found = report.notes if public else report.errors
        found.append(
            f"{name} shares {shares[index]:.0%} of its {OVERLAP_WORDS}-word shingles with {other}: {split.names[index]}"
        )
