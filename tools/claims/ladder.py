"""Answers questions about the held-out splits that must not guide a search: gate through a ladder, final once.

    golf ladder ask MODEL.golf --track pocket --split gate --data data/embedded
    golf ladder show

The ladder (Blum & Hardt, ICML 2015, the form that takes its step from the data): a new best is told only if the paired
gain over documents passes its noise, and at least STEP; it is rounded to STEP. Any other answer is the old value, so
adaptive questions teach almost nothing about the split. Their step of one standard error bounds how far the best can be
from the truth, but lets chance through every sixth time; here the step grows with the number of questions, so that all
of them together tell a false best with a probability of about ALPHA. Each question is a row of the experiment log.
The final split is opened once per artifact.

Not covered: force. Text and scorer are on your machine; the log shows whether you asked by this way only.
"""

import argparse
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from golf.files import ROOT, Failure, explain, read_json, sha256_file
from golf.foreign import terminal
from golf.tracks import TRACKS
from tools.runs import ledger
from tools.runs.store import Ledger, body_of

STEP = 0.0005  # bpb: the smallest gain the ladder tells, and what it rounds to
ALPHA = 0.05
CLIP_BITS_PER_BYTE = 8.0  # losses of a document are cut here: the ladder's guarantee needs bounded losses


@dataclass(frozen=True)
class Answer:
    """What the ladder tells: the released bpb, whether it is a new best, and the gain that was needed."""

    released: float
    new_best: bool
    needed: float


def bits_of(result: dict) -> list[tuple[str, float, int]]:
    """(id, clipped bits, raw bytes) of each document of an eval.json."""
    return [
        (row["id"], min(row["nats"] / math.log(2), CLIP_BITS_PER_BYTE * row["raw_bytes"]), row["raw_bytes"])
        for row in result["per_document"]
    ]


def standard_error(new: list[float], old: list[float], raw_bytes: list[int]) -> float:
    """Of the difference in bits per byte of two models over the same documents, which are taken as drawn."""
    import numpy as np

    from golf.statistics import ratio_error

    return ratio_error(np.subtract(new, old), np.asarray(raw_bytes, dtype=float))


def step(
    released: float | None, new: list[float], best: list[float] | None, raw_bytes: list[int], before: int
) -> Answer:
    """One question, after `before` others. released: the last released bpb; best: bits [documents] of its model.

    Question k (from 1) gets ALPHA * 6 / (pi k)^2 of the probability; over all k these sum to ALPHA.
    """
    score = sum(new) / sum(raw_bytes)
    rounded = round(round(score / STEP) * STEP, 6)
    if released is None:
        return Answer(rounded, True, 0.0)
    if best is None:
        raise ValueError("a released value comes with the documents of its model")
    from scipy.stats import norm

    z = float(norm.isf(ALPHA * 6 / (math.pi * (before + 1)) ** 2))
    needed = max(STEP, z * standard_error(new, best, raw_bytes))
    return Answer(rounded, True, needed) if score < released - needed else Answer(released, False, needed)


def questions(root: Path, track: str | None = None) -> list[dict]:
    """The rows of the log that are questions, oldest first; none in a clone that has no log."""
    if not (root / "runs").is_dir():
        return []
    rows = [body_of(row) for row in ledger.query(root, "SELECT body FROM rows WHERE kind = 'question' ORDER BY n")]
    return [row for row in rows if track in (None, row["track"])]


def score_file(artifact: Path, data: Path, split: str, out: Path) -> None:
    """Scores with eval_heldout.py, whose tables stay hidden: they would tell what the ladder does not. Its progress bar
    is shown where there is a terminal for it."""
    terminal = sys.stderr.isatty()
    done = subprocess.run(
        [
            sys.executable,
            "eval_heldout.py",
            str(artifact.resolve()),
            "--data",
            str(data.resolve()),
            "--split",
            split,
            "--out",
            str(out.resolve()),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=None if terminal else subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        why = "the line above says why" if terminal else (done.stderr.strip() or "eval_heldout.py failed")
        raise Failure(f"no score: {why.splitlines()[-1]}")


def ask(root: Path, artifact: Path, track: str, split: str, data: Path) -> dict:
    """The row of the question, new or, for an artifact that was asked about before, the old one with "again": True."""
    if not artifact.is_file():
        raise Failure(f"{artifact}: no such file")
    sha256 = sha256_file(artifact)
    book = Ledger(root / "runs")
    with book.locked():  # one question at a time: the next one must see this answer
        with book.index() as database:
            asked = [
                row
                for row in (
                    body_of(row) for row in database.execute("SELECT body FROM rows WHERE kind = 'question' ORDER BY n")
                )
                if row["track"] == track and row["split"] == split
            ]
        for row in asked:
            if row["artifact"] == sha256:
                return row | {"again": True}
        folder = root / "runs" / "questions"
        folder.mkdir(parents=True, exist_ok=True)
        out = folder / f"{split}_{sha256}.json"
        score_file(artifact, data, split, out)
        result = read_json(out, ("bpb", "per_document", "data"))
        row = {
            "kind": "question",
            "run": artifact.resolve().parent.name,
            "track": track,
            "split": split,
            "artifact": sha256,
            "docs": result["data"]["docs_sha256"],
            "before": len(asked),
            "file_sha256": sha256_file(out),
        }
        if split == "final":
            row |= {"released": result["bpb"], "new_best": None, "needed": None}
        else:
            same = [old for old in asked if old["docs"] == row["docs"]]
            holder = next((old for old in reversed(same) if old.get("new_best")), None)
            new = bits_of(result)
            best = None
            if holder is not None:
                path = folder / f"{split}_{holder['artifact']}.json"
                if not path.exists() or sha256_file(path) != holder["file_sha256"]:
                    raise Failure(f"{path}: missing or edited: the ladder needs the documents of its best")
                by_id = {name: bits for name, bits, _ in bits_of(read_json(path))}
                best = [by_id[name] for name, _, _ in new]
            answer = step(
                holder["released"] if holder else None,
                [bits for _, bits, _ in new],
                best,
                [size for _, _, size in new],
                len(same),
            )
            row |= {"released": answer.released, "new_best": answer.new_best, "needed": answer.needed}
        return book.append([row])[0]


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 when there is no answer."""
    parser = argparse.ArgumentParser(prog="golf ladder", description="Questions about the gate and final splits.")
    commands = parser.add_subparsers(dest="command", required=True)
    asker = commands.add_parser("ask", help="is this artifact a new best on gate; or open final, once")
    asker.add_argument("artifact", type=Path, metavar="MODEL.golf")
    asker.add_argument("--track", required=True, choices=tuple(TRACKS))
    asker.add_argument("--split", default="gate", choices=("gate", "final"))
    asker.add_argument("--data", type=Path, default=ROOT / "data" / "embedded")
    shower = commands.add_parser("show", help="all questions so far")
    for command in (asker, shower):
        command.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(argv)
    try:
        if options.command == "show":
            rows = questions(ROOT)
        else:
            rows = [ask(ROOT, options.artifact, options.track, options.split, options.data)]
    except (Failure, OSError) as error:
        return explain("golf ladder", error)
    for row in rows:
        if row["split"] == "final":
            text = f"{row['released']:.4f} bpb; the final split is opened once per artifact"
        elif row.get("new_best"):
            text = f"new best, {row['released']:.4f} bpb (rounded to {STEP})"
        else:
            needed = "an unknown gain" if row.get("needed") is None else f"a gain over {row['needed']:.4f}"
            text = f"no new best; it stays at {row['released']:.4f} bpb ({needed} was needed)"
        again = ", asked before" if row.get("again") else ""
        where = f"{terminal(row['track'])} {terminal(row['split'])} {row['artifact'][:12]}"
        print(f"{where}: {text}; questions before it: {row['before']}{again}")
    if options.json:
        print(json.dumps({"format": 1, "questions": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
