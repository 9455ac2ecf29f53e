"""Answers questions about the held-out splits that must not guide a search: gate through a ladder, final once.

    golf ladder ask MODEL.golf --track pocket --split gate --data data/embedded
    golf ladder show

The ladder (Blum & Hardt, ICML 2015, the form that takes its step from the data): a new best is told only if the paired
gain over documents passes its noise, and at least STEP; it is rounded to STEP. Any other answer is the old value, so
adaptive questions teach almost nothing about the split. Their step of one standard error bounds how far the best can be
from the truth, but lets chance through every sixth time; here the step grows with the number of questions, so that all
of them together tell a false best with a probability of about ALPHA. The final split is opened once per artifact.

Each question is two rows of the experiment log: "asked" before its score exists, "question" with the answer. A question
that was killed between them counts, and is answered when it is asked again; a score that it left is removed by the next
question. Asked on other documents, it is another question, which counts as well. Until the ladder has judged, the score
is in the memory of this process only; afterwards the documents of a new best are kept for the next comparison, in
runs/questions/, and those of any other model are not.

Not covered: force. Text and scorer are on your machine; the log shows whether you asked by this way only.
"""

import argparse
import json
import math
import operator
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from golf import locks
from golf.console import guarded
from golf.files import ROOT, Failure, explain, read_json, sha256_file, write_durable
from golf.foreign import terminal
from golf.tracks import TRACKS
from tools.runs import ledger
from tools.runs.store import Ledger, body_of

STEP = 0.0005  # bpb: the smallest gain the ladder tells, and what it rounds to
ALPHA = 0.05
CLIP_BITS_PER_BYTE = 8.0  # losses of a document are cut here: the ladder's guarantee needs bounded losses


SCORE_NAME = re.compile(r"(?:gate|final)_[0-9a-f]{64}\.json|\.(?:gate|final)_[0-9a-f]{64}\.json\.[0-9a-f]{8}\.part")


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


@dataclass(frozen=True)
class Questions:
    """Rows of the log about one split of one track, oldest first."""

    asked: list[dict]  # one for each artifact and documents: the first row, whether or not it was answered
    answered: list[dict]

    def of(self, artifact: str, docs: str) -> list[dict]:
        """The rows in `asked` about the artifact and the documents with these SHA-256: one, or none."""
        return [row for row in self.asked if (row["artifact"], row["docs"]) == (artifact, docs)]


def sort(rows: list[dict], track: str, split: str) -> Questions:
    """The rows about `split` of `track`. Those of older versions have an answer and no row that says "asked"."""
    here = [row for row in rows if (row["track"], row["split"]) == (track, split)]
    first = {(row["artifact"], row["docs"]): row for row in reversed(here)}
    return Questions(sorted(first.values(), key=here.index), [row for row in here if row["kind"] == "question"])


def read_rows(root: Path) -> list[dict]:
    """The rows of the log that are questions or answers, oldest first; none in a clone that has no log."""
    if not (root / "runs").is_dir():
        return []
    query = "SELECT body FROM rows WHERE kind IN ('asked', 'question') ORDER BY n"
    return [body_of(row) for row in ledger.query(root, query)]


def questions(root: Path) -> list[dict]:
    """The rows of all answers, oldest first."""
    return [row for row in read_rows(root) if row["kind"] == "question"]


def unanswered(root: Path) -> list[dict]:
    """The rows of what was asked and has no answer: it was stopped, or is being scored."""
    rows = read_rows(root)
    fields = operator.itemgetter("track", "split", "artifact", "docs")
    answered = {fields(row) for row in rows if row["kind"] == "question"}
    return [row for row in rows if fields(row) not in answered]


def score_in_memory(artifact: Path, data: Path, split: str) -> dict:
    """The object of eval.json, in this process alone: nobody but the ladder sees it, also if it is killed."""
    from golf.progress import Progress
    from scoring.report import PHASES
    from scoring.score import score

    with Progress() as progress:
        return score(
            str(artifact),
            str(data),
            split,
            on_phase=lambda name, symbols: progress.phase(PHASES[name], symbols, "tokens"),
            on_tokens=progress.advance,
        )


def ask(root: Path, artifact: Path, track: str, split: str, data: Path) -> dict:
    """The row of the answer, new or, for an artifact that was asked about before, the old one with "again": True."""
    from scoring.score import read_artifact, read_documents

    _, _, about = read_artifact(str(artifact))  # what cannot be scored is no question
    docs = read_documents(str(data), split)[1]["docs_sha256"]
    (root / "runs").mkdir(exist_ok=True)

    def say() -> None:
        print("waiting: the ladder answers another question", file=sys.stderr, flush=True)

    with locks.held(root / "runs" / "ladder.lock", say):  # one at a time: the next one must see this answer
        rows, folder = read_rows(root), root / "runs" / "questions"
        remove_untold(rows, folder)
        known = sort(rows, track, split)
        for row in known.answered:
            if row["artifact"] == about["sha256"]:
                return row | {"again": True}
        book = Ledger(root / "runs")
        row = {
            "kind": "asked",
            "run": artifact.resolve().parent.name,
            "track": track,
            "split": split,
            "artifact": about["sha256"],
            "docs": docs,
        }
        best = best_so_far(known, docs, folder)
        if not known.of(about["sha256"], docs):
            row = book.append([row])[0]
            known.asked.append(row)
        result = score_in_memory(artifact, data, split)
        if (result["artifact"]["sha256"], result["data"]["docs_sha256"]) != (row["artifact"], row["docs"]):
            raise Failure(f"{artifact}, or the documents in {data}, changed when they were read again: ask again")
        return book.append([answer_to(row, known, best, result, folder)])[0]


@dataclass(frozen=True)
class Best:
    """The model that has the best answer so far: the bpb that was told, and {id of a document: bits}."""

    released: float
    bits: dict[str, float]


def best_so_far(known: Questions, docs: str, folder: Path) -> Best | None:
    """The best on the documents with this hash, None before the first answer and on the final split. Failure if its
    score in `folder` is not the one that the log names."""
    holder = next((row for row in reversed(known.answered) if row["docs"] == docs and row.get("new_best")), None)
    if holder is None:
        return None
    path = score_path(folder, holder)
    if not path.exists() or sha256_file(path) != holder.get("file_sha256"):
        raise Failure(f"{path}: missing or edited: the ladder needs the documents of its best")
    return Best(holder["released"], {name: bits for name, bits, _ in bits_of(read_json(path))})


def remove_untold(rows: list[dict], folder: Path) -> None:
    """Removes scores that no answer names: of a question that was killed when it was judged and not yet told."""
    told = {score_path(folder, row).name for row in rows if row.get("file_sha256")}
    for path in folder.iterdir() if folder.is_dir() else ():
        if SCORE_NAME.fullmatch(path.name) and path.name not in told:
            path.unlink()


def score_path(folder: Path, row: dict) -> Path:
    """Where the score of the model that a row is about is kept, if it is."""
    return folder / f"{row['split']}_{row['artifact']}.json"


def answer_to(row: dict, known: Questions, best: Best | None, result: dict, folder: Path) -> dict:
    """The row that answers what is asked in `row`. result: the score. Keeps the score in `folder` if it is told, or if
    later ones are compared with it."""
    earlier = known.asked[: known.asked.index(known.of(row["artifact"], row["docs"])[0])]
    fields = ("run", "track", "split", "artifact", "docs")
    answer = {"kind": "question", **{key: row[key] for key in fields}, "before": len(earlier)}
    if row["split"] == "final":
        answer |= {"released": result["bpb"], "new_best": None, "needed": None}
    else:
        new = bits_of(result)
        told = step(
            best.released if best else None,
            [bits for _, bits, _ in new],
            [best.bits[name] for name, _, _ in new] if best else None,
            [size for _, _, size in new],
            sum(old["docs"] == row["docs"] for old in earlier),
        )
        answer |= {"released": told.released, "new_best": told.new_best, "needed": told.needed}
    if answer["new_best"] is not False:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        write_durable(score_path(folder, row), json.dumps(result).encode())
        answer["file_sha256"] = sha256_file(score_path(folder, row))
    return answer


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
            rows = [*questions(ROOT), *unanswered(ROOT)]
        else:
            rows = [ask(ROOT, options.artifact, options.track, options.split, options.data)]
    except (Failure, OSError) as error:
        return explain("golf ladder", error)
    for row in rows:
        where = f"{terminal(row['track'])} {terminal(row['split'])} {row['artifact'][:12]}"
        if row["kind"] == "asked":
            print(f"{where}: asked, and not answered: it was stopped, or is being scored")
            continue
        if row["split"] == "final":
            text = f"{row['released']:.4f} bpb; the final split is opened once per artifact"
        elif row.get("new_best"):
            text = f"new best, {row['released']:.4f} bpb (rounded to {STEP})"
        else:
            needed = "an unknown gain" if row.get("needed") is None else f"a gain over {row['needed']:.4f}"
            text = f"no new best; it stays at {row['released']:.4f} bpb ({needed} was needed)"
        again = ", asked before" if row.get("again") else ""
        print(f"{where}: {text}; questions before it: {row['before']}{again}")
    if options.json:
        print(json.dumps({"format": 1, "questions": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("golf ladder", main))
