"""The published FineWeb shards of the public challenge, from Hugging Face, verified and laid out as a data directory.

Where only tokens are public the raw text is what they decode to: dev is the full published validation set, gate and
final are cut by document hash out of the last downloaded training shard, which is then kept out of train. Texts are
encoded again by the canonical tokenizer, so that held-out shards hold what `encode(text)` gives.

A download that breaks off goes on inside a file while this process lives (huggingface_hub asks for the missing range),
and at the first missing file in the next run. Every file is compared with the hub's size and hash, every shard with its
header.

Not covered: the documents behind the tokens (docs_selected.jsonl), variants with a byte sidecar (CaseOps).

Layout, from the public challenge's own scripts (data/cached_challenge_fineweb.py): datasets/manifest.json,
datasets/datasets/fineweb10B_<variant>/fineweb_{train,val}_NNNNNN.bin, datasets/tokenizers/fineweb_<size>_bpe.model.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import numpy as np
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import tqdm

from golf.files import Failure, read_json, sha256_file, write_json
from golf.progress import Progress
from golf.shards import BOS, read_shard, shard_bytes
from golf.tokenizer import Tokenizer
from tools.data.build import FORMAT, directory, tokenizer_entry, write_split
from tools.data.embedded import Document

REPOSITORIES = {
    "sp1024": "willdepueoai/parameter-golf",
    "sp4096": "kevclark/parameter-golf",
    "sp8192": "kevclark/parameter-golf",
}
ROOT = "datasets"  # everything lies under this folder of the repository
VALIDATION_DOCUMENTS = 50_000  # the challenge's validation set: the first 50,000 documents of its fixed selection
SOURCE = "fineweb"


@dataclass(frozen=True)
class Remote:
    """A file on the hub: path in the repository, size, and its SHA-256 (large files) or git blob id (small ones)."""

    path: str
    size: int
    sha256: str | None
    blob_id: str | None

    def fault(self, path: Path) -> str | None:
        """What is wrong with a local copy, or None."""
        size = path.stat().st_size
        if size != self.size:
            return f"{size:,} bytes, the hub has {self.size:,}"
        if self.sha256:
            return None if sha256_file(path) == self.sha256 else "its SHA-256 is not the hub's"
        blob = hashlib.sha1(b"blob %d\0" % size + path.read_bytes(), usedforsecurity=False).hexdigest()
        return None if blob == self.blob_id else "its hash is not the hub's"


class Hub:
    """One commit of a dataset repository, downloaded into `cache`. Every failure of the hub or network is a Failure."""

    def __init__(self, repository: str, cache: Path):
        self.repository = repository
        self.cache = cache / repository.replace("/", "--")
        info = self._call(lambda: huggingface_hub.HfApi().dataset_info(repository, files_metadata=True))
        self.commit = info.sha
        self.files = {
            file.rfilename: Remote(file.rfilename, file.size or 0, file.lfs and file.lfs.sha256, file.blob_id)
            for file in info.siblings or []
        }

    def remote(self, name: str) -> Remote:
        """A file under ROOT. Raises Failure if the repository does not hold it, or holds it empty."""
        path = f"{ROOT}/{name}"
        if path not in self.files:
            raise Failure(f"{self.repository} on the hub has no {path}")
        if not self.files[path].size:
            raise Failure(f"{path} is empty (0 bytes) on the hub ({self.repository}): its upload failed, ask its owner")
        return self.files[path]

    def fetch(self, remote: Remote, advance: Callable[[int], None]) -> Path:
        """The verified local copy of a file, downloaded unless it is there; a broken copy is fetched once more."""
        path = self.cache / remote.path
        kept = path.is_file() and path.stat().st_size == remote.size
        for force in (False, True):
            self._call(
                lambda force=force: huggingface_hub.hf_hub_download(
                    self.repository,
                    remote.path,
                    repo_type="dataset",
                    revision=self.commit,
                    local_dir=self.cache,
                    force_download=force,
                    tqdm_class=_reporter(advance),
                )
            )
            fault = remote.fault(path)
            if not fault:
                if kept:
                    advance(remote.size)
                return path
            kept = False
        raise Failure(f"{remote.path}: downloaded twice, and still {fault} ({self.repository}): try again later")

    def _call(self, request: Callable):
        try:
            return request()
        except (HTTPError, OSError, RuntimeError) as error:
            # RuntimeError is what the Xet client raises for a broken transfer.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[0] if lines else type(error).__name__
            raise Failure(
                f"cannot download {self.repository} (what is complete is kept, run it again): {reason}"
            ) from None


def _reporter(advance: Callable[[int], None]) -> type:
    """A silent tqdm that hands the bytes of a download to `advance`."""

    class Reporter(tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n=1):
            advance(n)

    return Reporter


def export(hub: Hub, variant: str, count: int, manifest_path: Path) -> tuple[list[Remote], list[Remote], Remote, dict]:
    """(validation shards, the first `count` training shards, tokenizer, stats) of a variant, from the hub's manifest.

    Raises Failure if the manifest lacks the variant or names what the repository does not hold.
    """
    manifest = read_json(manifest_path, ("datasets", "tokenizers"))
    name = f"fineweb10B_{variant}"
    entry = _named(manifest["datasets"], name)
    if not entry:
        known = ", ".join(str(item.get("name")) for item in manifest["datasets"] if isinstance(item, dict)) or "nothing"
        raise Failure(f"{ROOT}/manifest.json of {hub.repository} does not list {name} (it lists {known}): it is stale")
    stats = entry.get("stats") or {}
    tokenizer = _named(manifest["tokenizers"], entry.get("tokenizer_name")) or {}
    numbers = [stats.get(key) for key in ("files_train", "files_val")]
    if not all(isinstance(number, int) and number > 0 for number in numbers) or not tokenizer.get("model_path"):
        raise Failure(f"{ROOT}/manifest.json of {hub.repository}: {name} has no shard counts or no tokenizer")
    if not 2 <= count <= stats["files_train"]:
        raise Failure(
            f"--shards {count}: {variant} has {stats['files_train']} training shards, and it takes at least 2"
        )
    folder = f"datasets/{name}"
    validation = [hub.remote(f"{folder}/fineweb_val_{index:06d}.bin") for index in range(stats["files_val"])]
    training = [hub.remote(f"{folder}/fineweb_train_{index:06d}.bin") for index in range(count)]
    return validation, training, hub.remote(tokenizer["model_path"]), stats


def _named(items, name) -> dict | None:
    return next((item for item in items if isinstance(item, dict) and item.get("name") == name), None)


def build(variant: str, count: int, out: Path, parameters: dict) -> dict:
    """Downloads `count` training shards, the validation set and the tokenizer; writes the data directory `out`.

    The last training shard becomes gate and final. Returns the manifest. Raises Failure for anything wrong on the way.
    """
    hub = Hub(REPOSITORIES[variant], out.parent / ".cache" / "hub")
    manifest_path = hub.fetch(hub.remote("manifest.json"), lambda count: None)
    validation, training, model, stats = export(hub, variant, count, manifest_path)
    wanted = [model, *validation, *training]
    with Progress() as progress:
        progress.phase(f"downloading {variant}", total=sum(remote.size for remote in wanted), unit="bytes")
        paths = {remote.path: hub.fetch(remote, progress.advance) for remote in wanted}
    try:
        tokenizer = Tokenizer(paths[model.path].read_bytes())
    except ValueError as error:
        raise Failure(f"{model.path}: {error}") from None
    if f"sp{tokenizer.vocab_size}" != variant:
        raise Failure(f"{model.path}: {tokenizer.vocab_size} ids, not a tokenizer of {variant}")
    shards = {remote.path: _shard(paths[remote.path], tokenizer) for remote in [*validation, *training]}

    dev_tokens = np.concatenate([shards[remote.path] for remote in validation])
    _validation_set(dev_tokens, stats, hub)
    kept_out = shards[training[-1].path]
    with Progress() as progress:
        total = int((dev_tokens == BOS).sum() + (kept_out == BOS).sum())
        progress.phase("decoding", total=total, unit="documents")
        splits = {"dev": decode(dev_tokens, tokenizer, progress.advance)}
        # Shards are cut every 100,000,000 tokens: the first and last documents of one may be fragments.
        borders = np.flatnonzero(kept_out == BOS)
        whole = kept_out[borders[0] : borders[-1]] if len(borders) else kept_out[:0]
        splits["gate"], splits["final"] = divide(
            decode(whole, tokenizer, progress.advance), {d.id for d in splits["dev"]}
        )
    with Progress() as progress, directory(out) as folder:
        entries = {"train": _train(folder, training[:-1], paths, shards)}
        progress.phase("writing shards", total=sum(map(len, splits.values())), unit="documents")
        for name, documents in splits.items():
            entries[name] = write_split(folder, name, documents, tokenizer, progress.advance)
        (folder / "tokenizer.model").write_bytes(tokenizer.model_bytes)
        manifest = {
            "format": FORMAT,
            "name": f"fineweb-{variant}",
            "parameters": parameters,
            "sources": [
                {
                    "repository": hub.repository,
                    "commit": hub.commit,
                    "file": remote.path,
                    "licence": "ODC-By 1.0 (FineWeb)",
                }
                for remote in wanted
            ],
            "text": "decoded from tokens",
            "tokenizer": tokenizer_entry(tokenizer),
            "splits": entries,
        }
        write_json(folder / "manifest.json", manifest)
    return manifest


def _shard(path: Path, tokenizer: Tokenizer) -> np.ndarray:
    tokens = read_shard(path)
    if not len(tokens):
        raise Failure(f"{path}: holds no tokens")
    if int(tokens.max()) >= tokenizer.vocab_size:
        raise Failure(f"{path}: token id {int(tokens.max())}, but the tokenizer has {tokenizer.vocab_size} ids")
    return tokens


def _validation_set(tokens: np.ndarray, stats: dict, hub: Hub) -> None:
    """Raises Failure unless this is the challenge's validation set, and the one that the hub's manifest describes."""
    documents = int((tokens == BOS).sum())
    for what, found, key in (("tokens", len(tokens), "tokens_val"), ("documents", documents, "docs_val")):
        if stats.get(key) is not None and stats[key] != found:
            raise Failure(
                f"validation set of {hub.repository}: {found:,} {what}, but its manifest says {stats[key]:,}: "
                "the manifest is stale or the shards are of another export"
            )
    if documents != VALIDATION_DOCUMENTS or tokens[0] != BOS:
        raise Failure(
            f"validation set of {hub.repository}: {documents:,} documents, the challenge's has {VALIDATION_DOCUMENTS:,}"
            ": a score on it would not compare, and its other documents may stand in train"
        )


def decode(tokens: np.ndarray, tokenizer: Tokenizer, advance=lambda: None) -> list[Document]:
    """The documents between BOS ids, as text.

    Raises Failure where tokens do not decode to UTF-8: the tokenizer is another one.
    """
    starts = np.flatnonzero(tokens == BOS)
    documents = []
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], len(tokens)], strict=True)):
        try:
            documents.append(Document(tokenizer.decode(tokens[start:end]).decode("utf-8"), SOURCE))
        except UnicodeDecodeError:
            raise Failure(
                f"document {index + 1} does not decode to UTF-8: not the tokenizer of these shards?"
            ) from None
        advance()
    return documents


def divide(documents: list[Document], known: set[str]) -> tuple[list[Document], list[Document]]:
    """Gate and final: documents by the parity of their hash, without repetitions and what is in `known` (ids)."""
    unique = {document.id: document for document in documents}
    halves: tuple[list[Document], list[Document]] = ([], [])
    for key in sorted(unique.keys() - known):
        halves[int(key, 16) & 1].append(unique[key])
    return halves


def _train(folder: Path, remotes: list[Remote], paths: dict[str, Path], shards: dict[str, np.ndarray]) -> dict:
    """Links the training shards into the data directory; returns their part of the manifest."""
    files, documents, total = [], 0, 0
    for index, remote in enumerate(remotes):
        path = folder / f"train_{index:06d}.bin"
        try:
            os.link(paths[remote.path], path)
        except OSError:  # another file system
            shutil.copyfile(paths[remote.path], path)
        count = len(shards[remote.path])
        documents += int((shards[remote.path] == BOS).sum())
        total += count
        digest = remote.sha256 or sha256_file(path)
        files.append({"name": path.name, "sha256": digest, "size": shard_bytes(count), "tokens": count})
    sources = {SOURCE: {"documents": documents, "raw_bytes": None}}
    return {"documents": documents, "raw_bytes": None, "tokens": total, "files": files, "sources": sources}
