"""Holds a training script against docs/contract.md before anything is trained: one line for each fault.

    golf check-script train_gpt.py --preset=tiny
    golf check-script mine.py --data data/mine --json

Its settings are read and not run, and held against the contract's bounds and those that its annotations declare; the
packer's minifier takes it in a child; the script and what the minifier made of it run in a box each, with
contract_in_box.py. The tokenizer and all shards of its data set are held against vocab_size, and the disk against the
checkpoint.

Not covered: training itself, what a run leaves (tests/test_contract.py shows how), whether a model is any good; and
scripts that mean to deceive: they can tell this from a score, and the scorer's audits are for them.
"""

import argparse
import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from compress import bounded
from golf import script as scripts
from golf import temporary
from golf.box.box import Box, BoxFailure, Submission
from golf.files import Failure, read_bytes
from golf.foreign import terminal
from golf.shards import read_shard
from golf.tokenizer import Tokenizer
from golf.tracks import TRACKS

CONTRACT = 1  # version of docs/contract.md
PROGRAM = Path(__file__).with_name("contract_in_box.py")
SECONDS = 300.0  # of each box; a small model takes three
MAX_FAULTS = 50
PARTS = (
    "script", "config", "model", "state", "statistics", "scorer", "logits", "repeat", "causality", "minified",
    "tokenizer", "shards", "space",
)  # fmt: skip
SMALLEST_VOCABULARY, LARGEST_VOCABULARY = 260, 65_536  # four specials and 256 bytes; ids have 16 bits
TEXTS = ("preset", "track", "data_dir", "run_dir")
# The contract's bounds of the whole numbers that every Config has, and of what ends a run where it has that
NUMBERS = {"vocab_size": (SMALLEST_VOCABULARY, LARGEST_VOCABULARY), "seq_len": (1, 2**31), "seed": (0, 2**31 - 1)}
LIMITS = {"max_seconds": (0, 10**9), "max_steps": (0, 10**15), "max_tokens": (0, 10**15)}
NOTHING = "def decode_weights(payload):\n    return {}\n"
NOT_CHECKED = 4
NO_PRESET = "PRESETS has no dict for"  # how golf/script.py says it


class Report:
    """What was found: faults by part, what could not be checked, and what the script says of itself."""

    def __init__(self):
        self.faults: list[dict] = []
        self.not_checked: list[str] = []
        self.facts: dict = {}

    def add(self, part: str, text: str) -> None:
        row = {"part": part, "text": terminal(text)}
        if row not in self.faults and len(self.faults) < MAX_FAULTS:
            self.faults.append(row)


def check(path: Path, preset: str | None = None, data: Path | None = None) -> Report:
    """Checks the script in `path` under a preset (default: the first that bears the name of a track), against the data
    set `data` (default: the preset's own). Raises Failure if the file cannot be read."""
    report = Report()
    source = read_bytes(path, scripts.MAX_BYTES)
    preset, settings, fields = read_settings(source, preset, report)
    report.facts["preset"] = preset
    check_settings(settings, scripts.bounds(source, preset) if settings else {}, report)
    vocab_size = settings.get("vocab_size")
    vocab_size = vocab_size if type(vocab_size) is int and 0 < vocab_size <= LARGEST_VOCABULARY else None
    if vocab_size:
        check_data(data or Path(str(settings.get("data_dir"))), vocab_size, report)
    with contextlib.ExitStack() as boxes:  # which start while others work: importing torch is most of their time
        try:
            text = source.decode()
            whole = boxes.enter_context(started(text, fields, vocab_size, True))
            minified = bounded.call("compress.minify:minified_script", source=text)
        except ValueError as error:  # UnicodeDecodeError is one
            report.add("script", f"the packer's minifier does not take it: {error}")
            return report
        again = boxes.enter_context(started(minified, fields, vocab_size, False))
        digest = digest_of(whole, report)
        check_space(settings, report)
        if digest:
            compare(digest, again, report)
    return report


def compare(digest: str, again: Box, report: Report) -> None:
    """Runs the minified script in its box: no fault may be new, and the logits must be those of `digest`."""
    ours = Report()
    other = digest_of(again, ours)
    new = [row["text"] for row in ours.faults if row not in report.faults]
    if new:
        report.add("minified", f"minified, as it is packed, it fails: {new[0]}")
    if other and other != digest:
        report.add(
            "minified",
            "minified, as it is packed, it gives other logits: it must not read its own text, docstrings, "
            "annotations or local names",
        )


def read_settings(source: bytes, preset: str | None, report: Report) -> tuple[str, dict, dict]:
    """(preset, all fields, those that travel in the artifact), as the script's literals say; {} where they do not."""
    failures = []
    for name in [preset] if preset else list(TRACKS):
        try:
            settings = scripts.read(source, name)
        except Failure as failure:
            failures.append((name, str(failure).removeprefix("train_gpt.py: ")))
            continue
        try:
            return name, settings, scripts.artifact_config(source, name, settings)
        except Failure as failure:
            report.add("config", str(failure).removeprefix("train_gpt.py: "))
            return name, settings, {}
    # The preset that is there says why it cannot be read; the others only that they are not there
    name, text = next((each for each in failures if not each[1].startswith(NO_PRESET)), failures[0])
    if preset is None and text.startswith(NO_PRESET):
        text = f"PRESETS has none of {', '.join(TRACKS)}: name one of its own with --preset"
    report.add("config", text)
    return name, {}, {}


def check_settings(settings: dict, declared: dict[str, list], report: Report) -> None:
    """The fields that every Config has, and the bounds of all: the contract's, and those that the script declares.
    Nothing if the settings could not be read."""
    if not settings:
        return
    for name in (*TEXTS, *NUMBERS):
        kind = str if name in TEXTS else int
        if name not in settings:
            report.add("config", f"Config has no field {name}")
        elif type(settings[name]) is not kind:
            report.add("config", f"{name} is {settings[name]!r}: write a {'text' if kind is str else 'whole number'}")
    track = settings.get("track")
    if isinstance(track, str) and track not in TRACKS:
        report.add("config", f"track is {track!r}: write one of {', '.join(TRACKS)}")
    for name, value in settings.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        for whose, bounds in (("the contract", NUMBERS | LIMITS), ("its annotation", declared)):
            least, largest = bounds.get(name, (value, value))
            if not least <= value <= largest:
                report.add("config", f"{name} is {value}: {whose} says from {least:,} to {largest:,}")
                break


def check_space(settings: dict, report: Report) -> None:
    """Room for the checkpoint's float32 on the disk of run_dir, once the number of weights is known."""
    folder = Path(str(settings.get("run_dir") or "runs"))
    folder = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    need, free = 4 * report.facts.get("parameters", 0), shutil.disk_usage(folder).free
    if free < need:
        report.add("space", f"the checkpoint takes {need:,} bytes, and {folder} has {free:,}: free some space")


def check_data(folder: Path, vocab_size: int, report: Report) -> None:
    """The data set's tokenizer, and the ids of all its shards, against vocab_size."""
    if not folder.is_dir():
        report.not_checked.append(f"no data set in {folder}: build it with golf data, or name one with --data")
        return
    try:
        known = Tokenizer(read_bytes(folder / "tokenizer.model")).vocab_size
        if known != vocab_size:
            report.add("tokenizer", f"{folder} has a tokenizer of {known:,} ids: write vocab_size={known}")
    except (Failure, ValueError, RuntimeError) as error:
        report.add("tokenizer", f"{folder}: {error}")
    paths = sorted(folder.glob("*_*.bin"))
    if not paths:
        report.add("shards", f"{folder} holds no shards: build the data with golf data")
    for path in paths:
        try:
            tokens = read_shard(path)
        except Failure as failure:
            report.add("shards", str(failure))
            continue
        highest = int(tokens.max()) if len(tokens) else 0
        if highest >= vocab_size:
            report.add("shards", f"{path} has the id {highest:,}: vocab_size is {vocab_size:,}, another tokenizer's?")


@contextlib.contextmanager
def started(source: str, fields: dict, vocab_size: int | None, whole: bool) -> Iterator[Box]:
    """A box in which contract_in_box.py begins with a script; it ends with the context. whole: look for faults."""
    submission = Submission(source, NOTHING, fields, b"", vocab_size or LARGEST_VOCABULARY)
    with temporary.folder("script") as folder:
        task = {"vocab_size": vocab_size, "whole": whole}
        (folder / "check.json").write_text(json.dumps(task), encoding="utf-8")
        box = Box(submission, 1, SECONDS, memory_bytes=bounded.MEMORY_BYTES, program=PROGRAM, folder=folder)
        try:
            yield box
        finally:
            box.kill()
            box.close()


def digest_of(box: Box, report: Report) -> str | None:
    """Adds what is found in the box; returns the digest of the script's logits if it came so far."""
    digest = None
    try:
        for answer in box.results():
            if "fault" in answer:
                part = answer["fault"] if answer["fault"] in PARTS else "script"
                report.add(part, str(answer.get("text")))
            digest = answer.get("digest", digest)
            facts = ("parameters", "tensors", "scope", "chunk")
            report.facts |= {key: answer[key] for key in facts if key in answer}
    except BoxFailure as error:
        hangs = f"no result within {SECONDS:g} s: it hangs, or the machine is too busy"
        report.add("script", hangs if error.kind == "hang" else str(error))
        return None
    return digest


def show(path: Path, report: Report) -> None:
    """One line for each fault, then one that sums up."""
    for row in report.faults:
        print(f"{row['part']}: {row['text']}")
    for text in report.not_checked:
        print(f"not checked: {terminal(text)}")
    facts = report.facts
    size = f", {facts['parameters']:,} parameters" if isinstance(facts.get("parameters"), int) else ""
    count = len(report.faults)
    verdict = f"{count} fault{'s' * (count > 1)} against" if count else "keeps"
    print(f"{terminal(str(path))}, preset {terminal(facts['preset'])}{size}: {verdict} contract {CONTRACT}")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 for faults, 4 where no data set was there to compare with. Raises Failure."""
    parser = argparse.ArgumentParser(
        prog="golf check-script",
        description="Hold a training script against docs/contract.md, in the scorer's box, before anything is trained.",
    )
    parser.add_argument("script", type=Path, metavar="SCRIPT", help="a training script")
    parser.add_argument("--preset", help="one of its PRESETS (default: the first that is called as a track is)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a data set (default: the preset's)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    begin = time.monotonic()
    report = check(options.script, options.preset, options.data)
    show(options.script, report)
    if options.json:
        result = {"format": 1, "contract": CONTRACT, "script": str(options.script), **report.facts}
        result |= {"faults": report.faults, "not_checked": report.not_checked}
        print(json.dumps(result | {"seconds": round(time.monotonic() - begin, 2)}))
    return 1 if report.faults else NOT_CHECKED if report.not_checked else 0
