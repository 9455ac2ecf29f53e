"""golf data on a small folder of text: the data directory it builds, and what its check finds wrong."""

import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import zstandard

from golf.__main__ import main as golf
from golf.files import Failure
from golf.shards import read_shard
from golf.tokenizer import Tokenizer
from tests.support import ROOT
from tests.support.texts import prose
from tools.data import build
from tools.data import text as text_files
from tools.data.embedded import Document


def run(capsys, *arguments) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of the command line, in this process."""
    capsys.readouterr()
    status = golf(["data", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def prose_text(seed: int) -> str:
    return prose(seed, random.Random(seed).randint(60, 500)) + " \u2581 \u2585 \0 é😀\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Some 120 documents in the three formats, and a copy of a document in another file."""
    folder = tmp_path_factory.mktemp("texts")
    texts = [prose_text(seed) for seed in range(120)]
    (folder / "stories").mkdir()
    for index, text in enumerate(texts[:40]):
        (folder / "stories" / f"{index}.txt").write_bytes(text.encode("utf-8"))
    lines = [json.dumps({"text": text}) for text in texts[40:80]]
    (folder / "mail.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    lines = [json.dumps({"text": text, "id": 1}, ensure_ascii=False) for text in [*texts[80:], texts[0]]]
    raw = "\n".join(lines).encode("utf-8")
    # Two frames, cut inside a line, as parallel compressors write them.
    (folder / "web.jsonl.zst").write_bytes(zstandard.compress(raw[:9999]) + zstandard.compress(raw[9999:]))
    (folder / "notes.md").write_text("not a document")
    return folder


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "own"
    assert golf(["data", "text", str(folder), "--out", str(out), "--variant", "sp700"]) == 0
    return out


@pytest.fixture
def copy(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "own"))


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def documents_of(directory: Path, split: str) -> list[np.ndarray]:
    """The documents of a split, BOS included, read the plain way."""
    tokens = np.fromfile(directory / f"{split}_000000.bin", dtype="<u2", offset=1024)
    starts = np.flatnonzero(tokens == 1)
    assert starts[0] == 0
    return np.split(tokens, starts[1:])


def test_the_directory_is_what_the_contract_says(built):
    manifest = json.loads((built / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["format"], manifest["name"], manifest["text"]) == (1, "own", "raw")
    model = (built / "tokenizer.model").read_bytes()
    assert manifest["tokenizer"] == {
        "file": "tokenizer.model", "sha256": hashlib.sha256(model).hexdigest(), "vocab_size": 700,
    }  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = Tokenizer(model)
    sources = set()
    for split, entry in manifest["splits"].items():
        for item in entry["files"]:
            raw = (built / item["name"]).read_bytes()
            assert (len(raw), hashlib.sha256(raw).hexdigest()) == (item["size"], item["sha256"])
        header = np.fromfile(built / f"{split}_000000.bin", dtype="<i4", count=256)
        assert header[:3].tolist() == [20240520, 1, entry["tokens"]] and not header[3:].any()
        tokens = documents_of(built, split)
        assert len(tokens) == entry["documents"] and sum(map(len, tokens)) == entry["tokens"]
        assert sum(counts["raw_bytes"] for counts in entry["sources"].values()) == entry["raw_bytes"]
        texts = [tokenizer.decode(document).decode("utf-8") for document in tokens]
        assert sum(len(text.encode("utf-8")) for text in texts) == entry["raw_bytes"]
        sources |= set(entry["sources"])
        if split != "train":
            found = rows(built / f"{split}_docs.jsonl")
            assert [row["text"] for row in found] == texts
            for row, text, document in zip(found, texts, tokens, strict=True):
                assert row["id"] == hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
                plain = text.split("\u2581")[0]
                assert document[1:].tolist()[: len(processor.encode(plain)) - 2] == processor.encode(plain)[:-2]
    assert sources == {"stories", "mail", "web"}
    assert manifest["dropped"]["exact"] == 1


def test_every_document_arrives_once(built, folder):
    tokenizer = Tokenizer((built / "tokenizer.model").read_bytes())
    found = [tokenizer.decode(d).decode() for split in build.SPLITS for d in documents_of(built, split)]
    expected = {path.read_bytes().decode() for path in folder.rglob("*.txt")}
    for line in (folder / "mail.jsonl").read_text().splitlines():
        expected |= {json.loads(line)["text"]} if line else set()
    expected |= {prose_text(seed) for seed in range(80, 120)}
    assert len(found) == len(set(found)) == 120
    assert set(found) == expected


def test_a_variant_with_case_operators_has_the_same_documents(folder, built, tmp_path, capsys):
    out = tmp_path / "own"
    assert run(capsys, "text", folder, "--out", out, "--variant", "sp700_case")[0] == 0
    plain, case = (json.loads((path / "manifest.json").read_text()) for path in (built, out))
    assert case["parameters"] == plain["parameters"] | {"case_operators": True}
    tokenizer = Tokenizer((out / "tokenizer.model").read_bytes())
    assert tokenizer.operators and not Tokenizer((built / "tokenizer.model").read_bytes()).operators
    for split in build.SPLITS:
        assert case["splits"][split]["raw_bytes"] == plain["splits"][split]["raw_bytes"]
        if split != "train":
            assert (out / f"{split}_docs.jsonl").read_bytes() == (built / f"{split}_docs.jsonl").read_bytes()
            texts = [tokenizer.decode(document).decode() for document in documents_of(out, split)]
            assert texts == [row["text"] for row in rows(out / f"{split}_docs.jsonl")]
    assert run(capsys, "check", out)[0] == 0


def test_two_builds_are_identical_and_a_third_reuses(folder, built, tmp_path, capsys):
    out = tmp_path / "own"
    assert run(capsys, "text", folder, "--out", out, "--variant", "sp700")[0] == 0
    for path in sorted(built.iterdir()):
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    before = (out / "manifest.json").stat().st_mtime_ns
    status, stdout, stderr = run(capsys, "text", folder, "--out", out, "--variant", "sp700", "--json")
    assert status == 0 and "reused" in stderr and (out / "manifest.json").stat().st_mtime_ns == before
    assert json.loads(stdout.splitlines()[-1])["splits"]["train"]["documents"] > 50
    (out / "dev_000000.bin").write_bytes(b"")
    status, _, stderr = run(capsys, "text", folder, "--out", out, "--variant", "sp700")
    assert status == 0 and "lacks a file" in stderr
    assert (out / "dev_000000.bin").read_bytes() == (built / "dev_000000.bin").read_bytes()
    status, _, stderr = run(capsys, "text", folder, "--out", out, "--variant", "sp500")
    assert status == 0 and "built again" in stderr
    assert Tokenizer((out / "tokenizer.model").read_bytes()).vocab_size == 500


@pytest.mark.parametrize("error", [(1, OSError(28, "No space left on device")), (130, KeyboardInterrupt())])
def test_an_interrupted_build_leaves_no_manifest(folder, tmp_path, monkeypatch, error):
    written = []

    def fail(path, documents):
        written.append(path)
        raise error[1]

    monkeypatch.setattr(build, "write_docs", fail)
    assert golf(["data", "text", str(folder), "--out", str(tmp_path / "own"), "--variant", "sp700"]) == error[0]
    assert written and not list(tmp_path.iterdir())


def test_a_vocabulary_that_the_text_cannot_fill(folder, tmp_path, capsys):
    status, _, stderr = run(capsys, "text", folder, "--out", tmp_path / "out", "--variant", "sp60000")
    assert status == 1 and "cannot train a tokenizer of 60000 ids" in stderr.splitlines()[-1]


def test_what_the_text_cannot_give_is_named_without_the_words_of_a_library(tmp_path, capsys):
    """Characters without end, as Chinese has them, and digits, of which each is a piece of its own."""
    source = random.Random(1)
    chinese = ["".join(chr(0x4E00 + source.randrange(900)) for _ in range(300)) for _ in range(40)]
    with pytest.raises(
        Failure, match=r"^cannot train a tokenizer of 700 ids on 40 documents: .* take (\d+) ids"
    ) as error:
        build.train_tokenizer(chinese, 700)
    needed = int(re.search(r"--variant sp(\d+) or larger$", str(error.value))[1])
    assert 256 + 4 < needed - len(set("".join(chinese))) * 0.99 < 256 + 4 + 10
    assert build.train_tokenizer(chinese, needed).vocab_size == needed
    digits = [str(source.getrandbits(500)) for _ in range(40)]
    with pytest.raises(Failure, match=r"they hold no more than 270 pieces: choose --variant sp270 or smaller"):
        build.train_tokenizer(digits, 700)
    assert build.train_tokenizer(digits, 270).vocab_size == 270
    with pytest.raises(Failure, match="they hold nothing but characters that SentencePiece keeps for itself$"):
        build.train_tokenizer(["\u2581"], 700)


def test_a_folder_for_each_book_is_built_with_a_twentieth_in_each_held_out_split(tmp_path, capsys):
    """Half of the books have a near-copy: the shares are of what is left. One book is larger than a split."""
    texts = [prose(seed, 150) for seed in range(60)]
    copies = [text.replace(" ", "  ", 1) + " copied" for text in texts[:30]]
    for number, text in enumerate([*texts, *copies, " ".join(prose(seed, 150) for seed in range(60, 66))]):
        (tmp_path / "in" / f"book{number}").mkdir(parents=True)
        (tmp_path / "in" / f"book{number}" / "0.txt").write_text(text)
    status, stdout, stderr = run(
        capsys, "text", tmp_path / "in", "--out", tmp_path / "out", "--variant", "sp500", "--json"
    )
    assert status == 0, stderr
    splits = json.loads(stdout.splitlines()[-1])["splits"]
    total = sum(entry["raw_bytes"] for entry in splits.values())
    for name in build.HELD_OUT:
        assert splits[name]["raw_bytes"] / total == pytest.approx(0.05, rel=0.12)
    assert sum(entry["documents"] for entry in splits.values()) == 61
    lines = stderr.splitlines()
    assert "documents dropped: 30 near-copies" in lines
    [large] = [line for line in lines if line.startswith("1 documents are larger than a held-out split")]
    assert large.endswith(f'(book90) "{" ".join(prose(60, 150).split()[:8])}"')


def test_shares_that_whole_documents_cannot_have_are_named(tmp_path, capsys):
    texts = [prose(seed, 300) for seed in range(8)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert run(capsys, "text", tmp_path, "--out", tmp_path.with_name("out8"), "--variant", "sp400")[0] == 0
    splits = build.prepare([Document(text, "a") for text in texts], 10**6).splits
    assert [len(splits[name]) for name in build.SPLITS] == [5, 1, 1, 1]
    [line] = [line for line in build.prepare([Document(t, "a") for t in texts], 10**6).notes if "other shares" in line]
    found = [float(share) for share in re.findall(r"(?:dev|gate|final) (\d+\.\d)%", line)]
    sizes = [len(splits[name][0].text) for name in build.HELD_OUT]
    assert found == [round(100 * size / sum(map(len, texts)), 1) for size in sizes]


def test_a_split_that_shares_all_its_passages_is_named():
    passage = prose(1, 100)
    documents = [Document(f"{prose(seed, 60)} {passage} {prose(seed + 100, 60)}", "s") for seed in range(30)]
    with pytest.raises(Failure, match=r"^all \d documents of the \w+ split share more than 20% of their passages"):
        build.prepare(documents, 10**6)


def test_a_folder_that_is_no_data_directory_is_not_replaced(folder, capsys):
    before = sorted(folder.rglob("*"))
    status, _, stderr = run(capsys, "embedded", "--out", folder)
    assert status == 1 and "is no data directory" in stderr and sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("in", "lies in"),
        ("in/out", "lies in"),
        (".", "holds"),
        ("in/0.txt/out", "lies in"),
        ("a file", "a file lies there"),
        ("here", "you are in this folder"),
        ("/proc", "a file system of its own"),
        ("name" * 100, "File name too long"),
        ("a file/out", "cannot write beside it"),
        ("full", "is no data directory"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_before_anything_is_read(tmp_path, capsys, monkeypatch, out, message):
    for name in ("in", "here", "full"):
        (tmp_path / name).mkdir()
    for name in ("in/0.txt", "full/thesis.txt", "a file"):
        (tmp_path / name).write_text("mine")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(text_files, "read", None)
    before = sorted(tmp_path.rglob("*"))
    status, _, stderr = run(capsys, "text", tmp_path / "in", "--out", tmp_path / out)
    assert status == 1 and message in stderr and stderr.count("\n") == 1, stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_is_followed(folder, tmp_path, capsys):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for variant in ("sp700", "sp500"):
        assert run(capsys, "text", folder, "--out", tmp_path / "out", "--variant", variant)[0] == 0
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk/manifest.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]


@pytest.mark.parametrize("name", ["notes/thesis.txt", "train_000007.bin", "link"])
def test_a_data_directory_with_a_file_of_somebody_elses_is_not_replaced(folder, copy, capsys, monkeypatch, name):
    (copy / "notes").mkdir()
    (copy / name).symlink_to(folder) if name == "link" else (copy / name).write_text("mine")
    monkeypatch.setattr(text_files, "read", None)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    status, _, stderr = run(capsys, "text", folder, "--out", copy, "--variant", "sp500")
    assert status == 1 and f"holds {name}, which is no part of the data set" in stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_two_builds_at_once_make_one_whole_directory(folder, built, tmp_path):
    """The second waits for the first, and finds its work done."""
    command = [sys.executable, "-m", "golf", "data", "text", str(folder), "--out", str(tmp_path / "own")]
    both = [
        subprocess.Popen([*command, "--variant", "sp700"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("reused" in text for text in said) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()} == {
        path.name: path.read_bytes() for path in built.iterdir()
    }


@pytest.mark.parametrize("size", ["sp260", "sp65537", "many", "1024", "sp1024_CASE"])
def test_usage_errors_exit_with_2(size):
    with pytest.raises(SystemExit) as error:
        golf(["data", "embedded", "--variant", size])
    assert error.value.code == 2


def checked(capsys, directory: Path) -> tuple[int, list[str]]:
    """(exit status, faults) of the check."""
    status, stdout, _ = run(capsys, "check", directory, "--json")
    report = json.loads(stdout.splitlines()[-1])
    assert report["ok"] == (not report["errors"]) == (status == 0)
    return status, report["errors"]


def test_a_good_directory_passes_as_a_script(built):
    command = [sys.executable, "-m", "golf", "data", "check", str(built)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert result.returncode == 0 and "no faults" in result.stdout, result.stdout + result.stderr
    assert "torch" not in subprocess.run(
        [sys.executable, "-c", "import sys; import tools.data.cli; print(*sys.modules)"],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    ).stdout.split()  # fmt: skip


def train_document(directory: Path) -> tuple[np.ndarray, str]:
    """A training document in the middle: (tokens with BOS, text)."""
    tokens = documents_of(directory, "train")[20]
    return tokens, Tokenizer((directory / "tokenizer.model").read_bytes()).decode(tokens).decode("utf-8")


def named(errors: list[str], text: str, *splits: str) -> bool:
    """Whether a fault names the document by id, first words and both splits."""
    key = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
    first = " ".join(text.split()[:8])[:80]
    return any(key in line and first in line and all(split in line for split in splits) for line in errors)


def append_row(directory: Path, split: str, text: str) -> None:
    key = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
    with open(directory / f"{split}_docs.jsonl", "a", encoding="utf-8") as file:
        file.write(
            json.dumps({"id": key, "source": "stories", "text": text}, ensure_ascii=False)
        )  # no newline at the end


def append_tokens(directory: Path, split: str, tokens: np.ndarray, header: bool) -> None:
    path = directory / f"{split}_000000.bin"
    raw = bytearray(path.read_bytes() + tokens.astype("<u2").tobytes())
    if header:
        raw[8:12] = np.array([(len(raw) - 1024) // 2], dtype="<i4").tobytes()
    path.write_bytes(raw)


def renew_manifest(directory: Path) -> None:
    """Makes the manifest true again, as someone would who adds a document with care."""
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    for split, entry in manifest["splits"].items():
        for item in entry["files"]:
            raw = (directory / item["name"]).read_bytes()
            item["size"], item["sha256"] = len(raw), hashlib.sha256(raw).hexdigest()
            if "tokens" in item:
                item["tokens"] = entry["tokens"] = (len(raw) - 1024) // 2
        entry["documents"] = len(documents_of(directory, split))
        if split != "train":
            entry["sources"] = build.count_sources(
                [Document(row["text"], row["source"]) for row in rows(directory / f"{split}_docs.jsonl")]
            )
            entry["raw_bytes"] = sum(counts["raw_bytes"] for counts in entry["sources"].values())
    (directory / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_a_training_document_in_the_texts_of_dev(copy, capsys):
    _, text = train_document(copy)
    append_row(copy, "dev", text)
    status, errors = checked(capsys, copy)
    assert status == 1 and named(errors, text, "train", "dev", "(stories)")
    assert any(
        "dev_docs.jsonl" in line and "bytes" in line for line in errors
    )  # the check went on after the changed size


@pytest.mark.parametrize("header", [False, True])
def test_a_training_document_in_the_shard_of_dev(copy, capsys, header):
    tokens, text = train_document(copy)
    append_tokens(copy, "dev", tokens, header)
    status, errors = checked(capsys, copy)
    assert status == 1 and named(errors, text, "train", "dev")
    assert any("decoded shard and texts differ" in line for line in errors)


def test_a_training_document_in_dev_with_a_manifest_to_match(copy, capsys):
    tokens, text = train_document(copy)
    append_tokens(copy, "dev", tokens, header=True)
    append_row(copy, "dev", text)
    with open(copy / "dev_docs.jsonl", "a") as file:
        file.write("\n")
    renew_manifest(copy)
    status, errors = checked(capsys, copy)
    assert status == 1 and named(errors, text, "train", "dev", "(stories)")
    duplicate, shares, contained = errors
    assert "document in train and dev" in duplicate and "100%" in shares and contained.startswith("1 training document")


def test_a_document_of_gate_in_final(copy, capsys):
    row = rows(copy / "gate_docs.jsonl")[0]
    append_row(copy, "final", row["text"])
    status, errors = checked(capsys, copy)
    assert status == 1 and named(errors, row["text"], "gate", "final")


def test_half_a_training_document_in_dev(copy, capsys):
    _, text = train_document(copy)
    half = text[: len(text) // 2]
    append_row(copy, "dev", "A new beginning. " + half)
    status, errors = checked(capsys, copy)
    assert status == 1
    assert any("of its 13-word shingles with train" in line and "A new beginning." in line for line in errors)


def test_half_a_document_of_dev_in_gate(copy, capsys):
    text = max((row["text"] for row in rows(copy / "dev_docs.jsonl")), key=len)
    append_row(copy, "gate", "A new beginning. " + text[: len(text) // 2])
    status, errors = checked(capsys, copy)
    assert status == 1
    assert any("of its 13-word shingles with dev" in line and "A new beginning." in line for line in errors)


def corrupt(name):
    """Each damages a directory in one way; the fault it must be found by."""

    def decorate(function):
        DAMAGE.append(pytest.param(function, id=name))
        return function

    return decorate


DAMAGE: list = []


@corrupt("a flipped bit in train")
def _(directory):
    path = directory / "train_000000.bin"
    raw = bytearray(path.read_bytes())
    raw[5001] ^= 1  # high byte: another id of the same vocabulary or one outside it
    path.write_bytes(raw)
    return "train_000000.bin: its SHA-256"


@corrupt("a truncated shard")
def _(directory):
    path = directory / "gate_000000.bin"
    path.write_bytes(path.read_bytes()[:-100])
    return "gate_000000.bin"


@corrupt("an empty shard")
def _(directory):
    (directory / "train_000000.bin").write_bytes(b"")
    return "train_000000.bin: 0 bytes"


@corrupt("another magic")
def _(directory):
    path = directory / "final_000000.bin"
    path.write_bytes(b"\1\2\3\4" + path.read_bytes()[4:])
    return "not a token shard"


@corrupt("a token outside the vocabulary")
def _(directory):
    path = directory / "dev_000000.bin"
    raw = bytearray(path.read_bytes())
    raw[1040:1042] = b"\xff\xff"
    path.write_bytes(raw)
    renew_manifest(directory)
    return "outside the vocabulary (up to 65535)"


@corrupt("a special token in a document")
def _(directory):
    path = directory / "train_000000.bin"
    raw = bytearray(path.read_bytes())
    raw[1040:1042] = b"\2\0"
    path.write_bytes(raw)
    renew_manifest(directory)
    return "train: 1 pad, eos or unk tokens"


@corrupt("a missing file")
def _(directory):
    (directory / "final_docs.jsonl").unlink()
    return "final_docs.jsonl: missing"


@corrupt("a file that nothing lists")
def _(directory):
    shutil.copy(directory / "train_000000.bin", directory / "train_000001.bin")
    return "train_000001.bin: not in the manifest"


@corrupt("another text for the same tokens")
def _(directory):
    path = directory / "dev_docs.jsonl"
    found = rows(path)
    found[2]["text"] += "!"
    found[2]["id"] = hashlib.sha256(found[2]["text"].encode()).hexdigest()[:16]
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    renew_manifest(directory)
    return "the first at document 3"


@corrupt("an id that is not the text's")
def _(directory):
    path = directory / "dev_docs.jsonl"
    found = rows(path)
    found[1]["id"] = "0" * 16
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    renew_manifest(directory)
    return "dev_docs.jsonl:2: its id"


@corrupt("a row that is not JSON")
def _(directory):
    with open(directory / "gate_docs.jsonl", "ab") as file:
        file.write(b"{\n")
    return "not an object with id, source and text"


@corrupt("another tokenizer")
def _(directory):
    texts = [row["text"] for row in rows(directory / "dev_docs.jsonl")]
    (directory / "tokenizer.model").write_bytes(build.train_tokenizer(texts * 3, 400).model_bytes)
    return "tokenizer.model: its SHA-256"


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(copy, capsys, damage):
    expected = damage(copy)
    status, errors = checked(capsys, copy)
    assert status == 1 and any(expected in line for line in errors), errors


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", None, "cannot read it"),
        ("manifest.json", b"{", "not JSON"),
        ("manifest.json", b"[]", "expected a JSON object"),
        ("manifest.json", b'{"format": 1, "text": "raw", "tokenizer": {}, "splits": {"train": {}}}', "split train"),
        ("tokenizer.model", None, "cannot read it"),
        ("tokenizer.model", b"junk", "tokenizer"),
    ],
)
def test_a_directory_that_cannot_be_checked(copy, capsys, name, content, message):
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    status, _, stderr = run(capsys, "check", copy)
    lines = [line for line in stderr.splitlines() if line.startswith("golf data:")]
    assert status == 1 and len(lines) == 1 and message in lines[0]


def test_no_directory(tmp_path, capsys):
    status, _, stderr = run(capsys, "check", tmp_path / "nothing")
    assert status == 1 and "no such folder" in stderr


def test_a_long_split_becomes_several_shards(tmp_path, built, monkeypatch):
    monkeypatch.setattr(build, "SHARD_TOKENS", 100)
    tokenizer = Tokenizer((built / "tokenizer.model").read_bytes())
    documents = [Document(prose(seed, 50), "s") for seed in range(5)]
    entry = build.write_split(tmp_path, "train", documents, tokenizer)
    tokens = np.concatenate([read_shard(tmp_path / item["name"]) for item in entry["files"]])
    assert len(entry["files"]) == -(-len(tokens) // 100) > 2
    assert tokens.tolist() == build.encode(documents, tokenizer).tolist()
