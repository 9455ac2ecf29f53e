"""Documents read from folders: formats, names, what is left out, and what is wrong with a file."""

import json
import os

import pytest
import zstandard

from golf.__main__ import main as golf
from tests.support.texts import prose
from tools.data import text as text_files


def run(capsys, *arguments) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of the command line, in this process."""
    capsys.readouterr()
    status = golf(["data", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"title": "x"}\n', "a.jsonl:2: not a JSON object"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "a.jsonl:2"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "a.jsonl:1"),
        ("a.jsonl", b'{"text": "x", "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "a.jsonl:1"),
        ("a.txt", b"first\ncaf\xe9", "not UTF-8 in line 2 (byte 9)"),
        ("a.jsonl.zst", zstandard.compress(b'{"text": "x"}\n' * 999)[:-5], "cut short"),
        ("a.jsonl.zst", b"plain", "not a zstd file"),
        ("a.md", b"x", "no .txt, .jsonl, .jsonl.zst files"),
        ("a.txt", b"One document only.", "too few"),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, capsys, name, content, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    status, _, stderr = run(capsys, "text", tmp_path / "in", "--out", tmp_path / "out")
    lines = [line for line in stderr.splitlines() if line.startswith("golf data:")]
    assert status == 1 and len(lines) == 1 and message in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_empty_documents_are_counted_and_a_folder_named_by_a_dot_has_its_name(tmp_path, capsys, monkeypatch):
    (tmp_path / "letters").mkdir()
    for seed in range(60):
        (tmp_path / "letters" / f"{seed}.txt").write_text(prose(seed, 150))
    (tmp_path / "letters" / "blank.txt").write_text(" \n")
    (tmp_path / "letters" / "mail.jsonl").write_text('{"text": ""}\n{"text": null}\n\n')
    monkeypatch.chdir(tmp_path / "letters")
    status, _, stderr = run(capsys, "text", ".", "--out", tmp_path / "out", "--variant", "sp500")
    assert status == 0 and ".: left out: 3 empty documents" in stderr.splitlines()
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["sources"] == [{"folder": "letters"}] and list(manifest["splits"]["dev"]["sources"]) == ["letters"]


def test_names_that_are_not_utf8_and_what_is_left_out(tmp_path, capsys):
    """A folder named in Latin-1, endings in capitals, other formats, links: built, and what is not read is counted."""
    inside = os.path.join(os.fsencode(tmp_path), b"in", b"caf\xe9")
    os.makedirs(inside)
    for seed in range(60):
        with open(os.path.join(inside, b"%d.TXT" % seed), "w", encoding="utf-8") as file:
            file.write(prose(seed, 150))
    (tmp_path / "other").mkdir()
    (tmp_path / "in/linked").symlink_to(tmp_path / "other")
    (tmp_path / "in/gone.txt").symlink_to("/nowhere")
    for name in ("b.jsonl.gz", "c.parquet", "d.parquet"):
        (tmp_path / "in" / name).write_bytes(b"x")
    status, _, stderr = run(capsys, "text", tmp_path / "in", "--out", tmp_path / "out", "--variant", "sp512")
    assert status == 0, stderr
    manifest = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    assert list(manifest["splits"]["train"]["sources"]) == ["caf\\xe9"]
    left_out = [line.partition("left out: ")[2] for line in stderr.splitlines() if "left out: " in line]
    reasons = ["1 files that end in .gz", "2 files that end in .parquet", "1 linked folders"]
    assert left_out == [*reasons, "1 links that lead nowhere, pipes and the like"]


def test_a_zstd_file_with_a_long_window_is_read(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=28, hash_log=10, chain_log=10, strategy=1)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    texts = [prose(seed, 150) for seed in range(5)]
    raw = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    (tmp_path / "a.jsonl.zst").write_bytes(packer.compress(raw) + packer.flush())
    assert [document.text for document in text_files.read(tmp_path / "a.jsonl.zst")] == texts
