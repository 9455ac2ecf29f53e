"""Mutated files of runs, rows of the log and records through the tools that read them, in process.

    python -m tests.support.mutate_log --count 2000

A case is a number: it draws a file (run.json, eval.json, train.log, a row of the log, record.json) with real values and
one to three changes: other types, NaN, huge numbers, deep nesting, markup, escapes, long text, half of surrogate pairs,
keys removed or added, bytes cut or changed. No command may end in an exception, write outside its folder or put a
control character on the terminal; the log must open afterwards, with its chain whole. Not a test itself: see
tests/tools/runs/test_mutate_log.py.
"""

import argparse
import contextlib
import copy
import hashlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
import unicodedata
from pathlib import Path
from unittest import mock

from tests.support.site_records import valid_record
from tools.records import leaderboard, lineage, remembered
from tools.runs import export, ledger, watch
from tools.runs.folder import QUIET_SECONDS
from tools.runs.store import row_hash

TARGETS = ("run.json", "eval.json", "train.log", "row", "record.json")
BATCH = 20  # cases of runs and rows that share one log
SCRIPT = "WIDTH = 64\nprint(WIDTH)\n"
SCRIPT_SHA256 = hashlib.sha256(SCRIPT.encode()).hexdigest()
DEEP, LONG_NUMBER = "<deep>", "<long number>"  # json.dumps cannot write these: they are put in afterwards
ODD = [
    None,
    True,
    False,
    0,
    -1,
    3.0,
    1e308,
    -1e308,
    1e-320,
    float("nan"),
    float("inf"),
    2**63,
    -(2**64),
    10**20,
    "",
    " ",
    "x",
    "[/x]",
    "[bold]a",
    "[red on blue]\\",
    "\x1b[2J\x1b]0;t\x07",
    "\x9b31m",
    "\x00",
    "\x7f",
    "\u202e",
    "\u2028",
    "\ud800",
    "a" * 100_000,
    "<!-- /leaderboard -->",
    "<script>",
    "![x](http://b.invalid)",
    "a | b\n\n# c",
    "`",
    "../../up",
    "/outside",
    "..",
    ".",
    "=cmd()",
    "2026-02-30",
    "0" * 64,
    "sigterm",
    "dev",
    "run",
    "note",
    "asked",
    "question",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    {"a": {"b": [None]}},
    {"\x1b": "\x1b"},
    [float("nan")],
    DEEP,
    LONG_NUMBER,
]
CONFIG = {
    "width": 64,
    "seed": 1,
    "run_dir": "runs/a",
    "track": "pocket",
    "preset": "pocket",
    "lr": 0.04,
    "stages": "a:b",
    "compile": True,
    "max_seconds": 100.0,
    "max_steps": 0,
}
RUN = {
    "track": "pocket",
    "preset": "pocket",
    "seed": 1,
    "world_size": 1,
    "config": CONFIG,
    "source_sha256": SCRIPT_SHA256,
    "environment": {"python": "3.11", "threads": 2, "compiled": True},
    "data": {"dir": "d", "manifest_sha256": "m"},
    "clock": {"compile": 5.0, "train": 95.0},
    "training_seconds": 9.5,
    "steps": 5,
    "tokens": 100,
    "params": 10,
    "train_loss": 3.2,
    "dev_bpb": 2.0,
    "stopped": "clock",
    "tokens_per_second": 1000,
    "mfu": 0.3,
}
SCORE = {
    "bpb": 1.9,
    "bpb_interval": [1.8, 2.0],
    "scope": "document",
    "clock": {"score": 2.0, "total": 3.0},
    "slices": {"source news": {"bpb": 2.0}},
    "data": {"split": "dev", "docs_sha256": "d", "manifest_sha256": "m"},
}
ROWS = [
    {
        "kind": "run",
        "run": "a",
        "file_sha256": "1",
        "code": SCRIPT_SHA256,
        "parent_code": None,
        "lines_added": 1,
        "lines_removed": 0,
        "config": CONFIG,
        "track": "pocket",
        "preset": "pocket",
        "seed": 1,
        "finished": 1e9,
        "steps": 5,
        "seconds": 9.5,
        "train_loss": 3.2,
        "dev_bpb": 2.0,
        "stopped": "clock",
        "data": "m",
        "variant": "1",
        "clock": {"a": 1.0},
        "environment": {"python": "3.11"},
        "source_matches": True,
        "world_size": 1,
        "tokens": 100,
        "params": 10,
    },
    {
        "kind": "crash",
        "run": "a",
        "file_sha256": "1",
        "code": None,
        "config": CONFIG,
        "track": "pocket",
        "preset": "pocket",
        "seed": 1,
        "last_line": "Killed",
        "finished": 1e9,
    },
    {"kind": "pack", "run": "a", "file_sha256": "2", "artifact": "2", "bytes": 4},
    {
        "kind": "score",
        "run": "a",
        "file_sha256": "3",
        "bpb": 1.9,
        "artifact": "2",
        "split": "dev",
        "scope": "document",
        "bpb_interval": [1.8, 2.0],
        "docs": "d",
        "clock": {"score": 2.0},
        "slices": {"news": 2.0},
    },
    {
        "kind": "note",
        "run": "a",
        "hypothesis": "wider",
        "verdict": "keep",
        "who": "agent",
        "outcome": "failed",
        "error": "e",
    },
    {"kind": "asked", "run": "a", "track": "pocket", "split": "gate", "artifact": "2", "docs": "d"},
    {
        "kind": "question",
        "run": "a",
        "track": "pocket",
        "split": "gate",
        "artifact": "2",
        "docs": "d",
        "before": 0,
        "file_sha256": "4",
        "released": 1.9,
        "new_best": True,
        "needed": 0.0,
    },
]


def containers(value: object) -> list:
    """Every object and list in a JSON value, itself included."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] * isinstance(value, (dict, list)) + [found for item in inner for found in containers(item)]


def mutated(value: dict, rng: random.Random) -> dict:
    """A copy of an object with one to three places changed, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        place = rng.choice([each for each in containers(value) if each] or [value])
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place))) if place else "new"
        action = rng.random()
        if action < 0.15 and place:
            del place[key]
        elif action < 0.3 and isinstance(place, dict):
            place[rng.choice([str(each) for each in ODD])] = rng.choice(ODD)
        else:
            place[key] = copy.deepcopy(rng.choice(ODD))
    return value


def encoded(value: object, rng: random.Random) -> bytes:
    """JSON text, once in eight times with bytes that are cut, changed or no UTF-8."""
    text = json.dumps(value).replace(f'"{DEEP}"', "[" * 3000 + "]" * 3000).replace(f'"{LONG_NUMBER}"', "9" * 5000)
    data = bytearray(text.encode())
    if rng.random() < 1 / 8 and data:
        place = rng.randrange(len(data))
        change = rng.choice(
            (
                data[:place],
                data[:place] + b"\xff\xfe" + data[place:],
                data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :],
                b"",
                b"null",
                b"[]",
            )
        )
        data = bytearray(change)
    return bytes(data)


def write_run(folder: Path, target: str, rng: random.Random) -> None:
    """A run that ended, was packed and scored, with `target` mutated; of train.log the config line, and no run.json."""
    folder.mkdir(parents=True)
    head = f"{SCRIPT}\n# source_sha256 {SCRIPT_SHA256}\nconfig ".encode()
    config = encoded(mutated(CONFIG, rng), rng) if target == "train.log" else json.dumps(CONFIG).encode()
    last = "step 1"
    if target == "train.log":
        last = rng.choice((last, "\x1b[31mKilled\x1b[0m [/x]", "\ud800", "a" * 5000))
    (folder / "train.log").write_bytes(head + config + b"\n" + last.encode(errors="surrogatepass") + b"\n")
    row = json.dumps({"step": 1, "elapsed": 1.0, "loss": 3.0}).encode()
    (folder / "metrics.jsonl").write_bytes(row + b"\n" + encoded(mutated(json.loads(row), rng), rng) + b"\n")
    if target != "train.log":
        (folder / "run.json").write_bytes(
            encoded(
                mutated(RUN, rng) if target == "run.json" else RUN, rng if target == "run.json" else random.Random(1)
            )
        )
    (folder / "model.golf").write_bytes(b"GOLF")
    score = SCORE | {"artifact": {"sha256": hashlib.sha256(b"GOLF").hexdigest()}}
    if target == "eval.json":
        (folder / "eval.json").write_bytes(encoded(mutated(score, rng), rng))
    else:
        (folder / "eval.json").write_text(json.dumps(score))


def append_row(path: Path, rng: random.Random) -> None:
    """A mutated row at the end of a log whose chain stays whole; none where no kit could have written it."""
    lines = path.read_text().splitlines() if path.exists() else []
    last = json.loads(lines[-1]) if lines else {"n": 0, "hash": ""}
    body = mutated(rng.choice(ROWS), rng)
    row = body | {"n": last["n"] + 1, "previous": last["hash"], "time": "t"}
    try:
        row["hash"] = row_hash(row)
    except ValueError:  # NaN, or text that UTF-8 has not: an older kit refused these too
        return
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def run_command(name: str, command, arguments: list[str], good_codes: tuple[int, ...]) -> str:
    """Calls a tool's main(); returns what it printed on stderr. AssertionError if it breaks a promise."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command(arguments)
    printed = out.getvalue() + err.getvalue()
    assert code in good_codes, f"{name} {arguments}: exit code {code}: {err.getvalue()[:300]}"
    bad = [
        character
        for character in printed
        if character != "\n" and unicodedata.category(character) in ("Cc", "Cf", "Cs")
    ]
    assert not bad, f"{name} {arguments}: printed {bad[:5]}"
    assert "Traceback" not in printed, f"{name} {arguments}: {printed[-300:]}"
    return err.getvalue()


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def try_log(cases: list[tuple[int, str]], folder: Path) -> None:
    """Runs and rows of these cases in one log, through every command that reads it."""
    root = folder / "inside"
    runs = root / "runs"
    write_run(runs / "a", "none", random.Random(0))
    for case, target in cases:
        rng = random.Random(case)
        if target == "row":
            append_row(runs / "ledger.jsonl", rng)
        else:
            write_run(runs / f"m{case}", target, rng)
            if target == "train.log":
                for path in (runs / f"m{case}").iterdir():
                    old = time.time() - QUIET_SECONDS - 5
                    shutil.os.utime(path, (old, old))
    with mock.patch.object(ledger, "ROOT", root):
        run_command("ledger", ledger.main, ["sync"], (0,))
        names = sorted(path.name for path in runs.iterdir() if path.is_dir() and path.name != "scripts")
        for arguments in (
            ["verify"],
            ["show"],
            ["best"],
            ["compare", "a", names[-1]],
            ["show", names[-1]],
            ["export", "--csv", str(root / "x.csv")],
            ["note", "a", "--verdict", "keep", "--who", "both"],
        ):
            last = arguments[-1] == names[-1]  # a run whose files say nothing usable may be unknown
            run_command("ledger", ledger.main, arguments, (0, 1) if last else (0,))
        with contextlib.redirect_stderr(io.StringIO()):  # names the runs whose curves cannot be used
            for _, points in export.curves_of(root, ledger.query(root, "SELECT * FROM runs")):
                assert all(isinstance(step, int) for _, step, _ in points)
        before = (runs / "ledger.jsonl").read_bytes()
        (runs / "ledger.sqlite").unlink()
        run_command("ledger", ledger.main, ["verify"], (0,))
        assert (runs / "ledger.jsonl").read_bytes() == before
    run_command("watch", watch.main, [str(runs), "--once"], (0,))
    outside = {name for name in files_below(folder) if not name.startswith("inside/runs/")}
    assert outside == {"inside", "inside/runs", "inside/x.csv"}, outside


def try_record(case: int, folder: Path) -> None:
    """A mutated record.json through the leaderboard, its site, and the family tree."""
    rng, root = random.Random(case), folder / "inside"
    record = root / "records/pocket/0001_baseline"
    record.mkdir(parents=True)
    (record / "train_gpt.py").write_text(SCRIPT)
    (record / "record.json").write_bytes(encoded(mutated(valid_record("pocket", "0001_baseline"), rng), rng))
    readme = "# Kit\n<!-- leaderboard -->\n<!-- /leaderboard -->\nafter\n"
    (root / "README.md").write_text(readme)
    before = files_below(folder)
    with (
        mock.patch.object(leaderboard, "ROOT", root),
        mock.patch.object(lineage, "ROOT", root),
        mock.patch.object(remembered, "recall", lambda kind, inputs, compute: compute()),  # no cache
    ):
        said = run_command("leaderboard", leaderboard.main, [], (0, 1))
        valid = not said
        assert valid or (said.count("\n") == 1 and "0001_baseline/record.json: " in said), said[:300]
        written = (root / "README.md").read_text()
        head, tail = readme.split("<!-- /leaderboard -->")
        assert written.startswith(head) and written.endswith(f"<!-- /leaderboard -->{tail}")
        assert valid or "Broken, and in no table" in written or "broken: " in written
        run_command("leaderboard", leaderboard.main, ["--check"], (0,) if valid else (1,))
        assert valid == (not run_command("lineage", lineage.main, [], (0,) if valid else (1,)))
        before.add("inside/records/leaderboard.json")
        assert files_below(folder) == before
        run_command("site", leaderboard.main, ["--site"], (0, 1) if valid else (1,))
    outside = {name for name in files_below(folder) if not name.startswith("inside/site")}
    assert outside == before, outside - before


def try_cases(cases: list[tuple[int, str]]) -> None:
    """Tries cases in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        if cases[0][1] == "record.json":
            [(case, _)] = cases
            try_record(case, Path(folder))
        else:
            try_log(cases, Path(folder))


def failures(count: int, start: int = 0) -> list[str]:
    """What went wrong in the cases from `start`, one line each, named by their number."""
    drawn = [(case, random.Random(case).choice(TARGETS)) for case in range(start, start + count)]
    log = [case for case in drawn if case[1] != "record.json"]
    groups = [log[i : i + BATCH] for i in range(0, len(log), BATCH)]
    groups += [[case] for case in drawn if case[1] == "record.json"]
    found, begin = [], time.monotonic()
    for done, group in enumerate(groups):
        if sys.stderr.isatty():
            left = (time.monotonic() - begin) / max(1, done) * (len(groups) - done)
            print(f"\r{done} of {len(groups)} groups, eta {left:.0f} s ", end="", file=sys.stderr)
        try:
            try_cases(group)
        except Exception as error:  # any exception of a tool is what is looked for
            wrong = [(case, error) for case in group] if len(group) == 1 else []
            for case in group if len(group) > 1 else []:
                try:
                    try_cases([case])
                except Exception as alone:
                    wrong.append((case, alone))
            wrong = wrong or [(group[0], error)]
            found += [f"case {case} ({target}): {type(each).__name__}: {each}"[:400] for (case, target), each in wrong]
    return found


def main() -> int:
    """Returns the exit code: 0, or 1 if a case went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.mutate_log", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    found = failures(options.count, options.start)
    print(*found, f"{options.count} cases, {len(found)} went wrong", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
