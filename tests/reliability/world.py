"""A small copy of the kit with texts, a data set, a run and a record's runs; commands run in copies of that.

Not covered: what the commands compute, which the tests of each package do.
"""

import compileall
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support import ROOT, made_records, warm
from tests.support.texts import prose
from tools.records.record import draw_seeds

SOURCES = ("golf", "compress", "scoring", "tools", "docs")
FILES = ("train_gpt.py", "eval_heldout.py", "README.md", "RULES.md", "pyproject.toml", ".gitignore")
IMPORT_TORCH = {"train_gpt.py", "pack", "unpack"}  # these start in a fork of a process that has done so
KEEP = ("golf record make", "train_gpt.py")  # these refuse to replace what is finished
PATIENCE_SECONDS = 20  # for the children of a killed process to end


def environment(place: Path) -> dict[str, str]:
    """Of commands in a place: what they write elsewhere lies there too."""
    names = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "GIT_"))},
        **names,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "TMPDIR": str(place / "tmp"),
        "XDG_CACHE_HOME": str(place / "cache"),
        "PYTHONPATH": str(place),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "COLUMNS": "120",
    }


def error_file(place: Path) -> Path:
    """Where the commands of a place have their stderr: a folder higher, as the place may be on a full disk."""
    return place.parent.parent / f"{place.parent.name}.{place.name}.err"


@functools.cache
def cores() -> Iterator[int]:
    """The numbers of this machine's cores, over and over."""
    return itertools.cycle(sorted(os.sched_getaffinity(0)))


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """What is started here has one core: threads would wait for each other on a busy machine."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {next(cores())})
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


def start(place: Path, arguments: tuple[str, ...]) -> subprocess.Popen:
    """`python ARGUMENTS` in a place, on one core: the next one."""
    begin = warm.Program if sys.platform == "linux" and IMPORT_TORCH & set(arguments) else subprocess.Popen
    with one_core(), open(error_file(place), "ab") as errors, open(os.devnull, "wb") as nowhere:
        return begin(
            [sys.executable, *arguments],
            cwd=place,
            env=environment(place),
            stdin=subprocess.DEVNULL,
            stdout=nowhere.fileno(),
            stderr=errors.fileno(),
        )


def said(place: Path) -> str:
    """What the commands in a place printed to stderr since this was last asked."""
    path = error_file(place)
    text = path.read_text(errors="replace") if path.exists() else ""
    path.unlink(missing_ok=True)
    return text


def run(place: Path, arguments: tuple[str, ...]) -> str:
    """Runs a command to its end; returns what is wrong with that, "" if it exits with 0."""
    status = start(place, arguments).wait()
    text = said(place)
    if "Traceback" in text or status:
        return f"exit status {status}: {(text.strip().splitlines() or ['no word'])[-1][:200]}"
    return ""


def files(place: Path) -> set[str]:
    """Names of all files and folders in a place but Python's byte code and what is remembered for speed."""
    found = (path.relative_to(place) for path in place.rglob("*"))
    return {path.as_posix() for path in found if "__pycache__" not in path.parts and path.parts[0] != "cache"}


def processes(place: Path) -> list[int]:
    """Processes that know the place by their environment or command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(place) in text and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def still_there(place: Path) -> list[int]:
    """The processes of a place that do not end by themselves; they are ended."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (left := processes(place)) and time.monotonic() < until:
        time.sleep(0.05)
    for process in left:
        os.kill(process, 9)
    return left


def digest(folder: Path) -> str | None:
    """A hash of all files of a folder, None where there is no folder."""
    if not folder.is_dir():
        return None
    parts = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    lines = [f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for name, path in sorted(parts.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class World:
    """Places to copy, each made once."""

    def __init__(self, folder: Path):
        self.folder = folder

    def _copy(self, name: str, source: Path) -> Path:
        return shutil.copytree(source, self.folder / name, symlinks=True)

    def _done(self, place: Path, *commands: tuple[str, ...]) -> Path:
        for arguments in commands:
            assert not (wrong := run(place, arguments)), (arguments, wrong)
        return place

    @functools.cached_property
    def tree(self) -> Path:
        """The kit's sources and a folder of texts."""
        place = self.folder / "tree"
        for name in SOURCES:
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
            compileall.compile_dir(place / name, quiet=1)  # once, and not by every command: copies keep their times
        for name in FILES:
            shutil.copy2(ROOT / name, place / name)
        for name in ("texts", "tmp", "data", "runs"):
            (place / name).mkdir()
        for number in range(160):
            (place / "texts" / f"{number}.txt").write_text(prose(number, 200))
        return place

    @functools.cached_property
    def old_set(self) -> Path:
        """With a data set of another variant than the commands ask for."""
        return self._done(self._copy("old_set", self.tree), (*DATA[:-1], "sp500"))

    @functools.cached_property
    def data_set(self) -> Path:
        return self._done(self._copy("data_set", self.tree), DATA)

    @functools.cached_property
    def with_spec(self) -> Path:
        """With a sweep of one run."""
        place = self._copy("with_spec", self.data_set)
        fields = (option.removeprefix("--").split("=") for option in (*SHAPE, "--data_dir=data/set"))
        fixed = {name: value if name in ("preset", "data_dir") else json.loads(value) for name, value in fields}
        lines = [f"{name} = {json.dumps(value)}" for name, value in fixed.items()]
        head = 'name = "twice"\nhypothesis = "It works."\nwho = "agent"\nsearch = "grid"\nseeds = [1]\n'
        head += 'parallel = 1\nprocesses = 1\nobjective = "dev_estimate"\n'
        (place / "SPEC.toml").write_text(f"{head}\n[fixed]\n" + "\n".join(lines) + "\n\n[space]\nmatrix_lr = [0.02]\n")
        return place

    @functools.cached_property
    def trained(self) -> Path:
        return self._done(self._copy("trained", self.data_set), TRAIN)

    @functools.cached_property
    def packed(self) -> Path:
        return self._done(self._copy("packed", self.trained), PACK)

    @functools.cached_property
    def record_runs(self) -> Path:
        """A repository with one commit, and three runs that make a record."""
        place = self._copy("record_runs", self.tree)
        command = "git init -q && git commit -q --allow-empty -m first"
        subprocess.run(command, shell=True, check=True, cwd=place, env=environment(place))
        for number, seed in enumerate(draw_seeds(made_records.head(place), 3)):
            made_records.make_run(place / f"runs/s{number}", seed, 1.9 + number / 100)
        (place / "par.json").write_text(json.dumps(made_records.PAR) + "\n")
        return place

    @functools.cached_property
    def old_site(self) -> Path:
        """With two records, and pages from when there was one."""
        place = self._copy("old_site", self.tree)
        first, second = sorted((ROOT / "records/pocket").iterdir())[:2]
        shutil.copytree(first, place / "records/pocket" / first.name)
        self._done(place, BOARD)
        shutil.copytree(second, place / "records/pocket" / second.name)
        return place


SHAPE = ("--preset=tiny", "--compile=false", "--max_seconds=0", "--max_steps=12", "--checkpoint_every=3",
         "--model_dim=32", "--num_layers=2", "--vocab_size=512", "--seq_len=128", "--batch_tokens=1024",
         "--micro_batch_tokens=1024", "--calibration_tokens=1024", "--dev_tokens=2048")  # fmt: skip
DATA = ("-m", "golf", "data", "text", "texts", "--out", "data/set", "--variant", "sp512")
TRAIN_ANYWHERE = ("train_gpt.py", *SHAPE, "--data_dir=data/set")
TRAIN = (*TRAIN_ANYWHERE, "--run_dir=runs/a")
TRAIN_AT_ONCE = (*TRAIN, "--checkpoint_every=0")
PACK = ("-m", "golf", "pack", "runs/a")
SCORE = ("eval_heldout.py", "runs/a/model.golf", "--data", "data/set", "--split", "dev", "--processes", "1")
UNPACK = ("-m", "golf", "unpack", "runs/a/model.golf", "unpacked")
VERIFY = ("-m", "golf", "verify", "runs/a/model.golf")
NOTE = ("-m", "golf", "log", "note", "planned", "--hypothesis", "it is better", "--who", "agent")
ASK = ("-m", "golf", "ladder", "ask", "runs/a/model.golf", "--track", "pocket", "--split", "gate", "--data", "data/set")
MAKE = ("-m", "golf", "record", "make", "--track", "pocket", "--number", "0001", "--slug", "first", "--title", "First",
        "--idea", "Start here.", "--author", "Ann", "--agent-help", "some", "--seed-commit", "HEAD", "--par",
        "par.json", "runs/s0", "runs/s1", "runs/s2")  # fmt: skip
SWEEP = ("-m", "golf", "sweep", "SPEC.toml")
BOARD = ("-m", "golf", "board", "--site")
PIPELINE = ("-c", f"""
from pathlib import Path
from tools.runs import pipeline
pipeline.run_stages(Path("runs/a"), Path("data/set"), {list(SHAPE)})""")  # fmt: skip


def data_set(place: Path) -> object:
    """{file: its hash} of the data set, None where there is none. All files are those of its manifest."""
    folder = place / "data/set"
    if not folder.exists():
        return None
    manifest = json.loads((folder / "manifest.json").read_text())
    stated = {item["name"]: item["sha256"] for entry in manifest["splits"].values() for item in entry["files"]}
    stated |= {"tokenizer.model": manifest["tokenizer"]["sha256"]}
    assert files(folder) == {"manifest.json", *stated}
    for name, sha256 in stated.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256, name
    return stated


def trained(place: Path) -> object:
    """The weights of the finished run, None before it is finished. Steps in its metrics go up."""
    folder = place / "runs/a"
    if not (folder / "run.json").exists():
        return None
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps[:-1] == sorted(set(steps[:-1])), f"steps in metrics.jsonl: {steps}"
    log = (folder / "train.log").read_text(errors="replace")
    assert len(re.findall("^# source_sha256 [0-9a-f]{64}$", log, re.MULTILINE)) == 1, "two runs in one log"
    return hashlib.sha256((folder / "checkpoint.pt").read_bytes()).hexdigest()


def bpb(place: Path) -> object:
    """The score of the run, None before there is one."""
    path = place / "runs/a/eval.json"
    return json.loads(path.read_text())["bpb"] if path.exists() else None


def logged(place: Path) -> list[dict]:
    """The rows of the log, whose chain is checked; a part of a row at its end is none."""
    from tools.runs.store import check_chain, whole_rows

    path = place / "runs/ledger.jsonl"
    data = path.read_bytes() if path.exists() else b""
    rows = [json.loads(line) for line in whole_rows(data)]
    assert check_chain(data)[0] == len(rows)
    return rows


def answer(place: Path) -> object:
    """What the ladder told, None before it told anything. No score lies there before the question is on the log."""
    rows = logged(place)
    answers = [row for row in rows if row["kind"] == "question"]
    if not answers:
        kept = list((place / "runs/questions").glob("*")) + list((place / "tmp").rglob("*.json"))
        asked = any(row["kind"] == "asked" for row in rows)
        assert asked or not any(b'"bpb"' in path.read_bytes() for path in kept if path.is_file()), "a score, not asked"
        return None
    assert [row["kind"] for row in rows if row["kind"] in ("asked", "question")] == ["asked", "question"]
    return [(row["released"], row["before"]) for row in answers]


def record_names(place: Path) -> object:
    """The files of the record, None where there is none."""
    folder = place / "records/pocket/0001_first"
    if not folder.exists():
        return None
    stated = json.loads((folder / "record.json").read_text())["files"]
    for name, sha256 in stated.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256, name
    return sorted(files(folder))


def site(place: Path) -> object:
    """A hash of the pages; there are always some, as there were some before."""
    made = digest(place / "site")
    assert made is not None, "no pages"
    return made


def artifact(place: Path) -> object:
    path = place / "runs/a/model.golf"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


@dataclasses.dataclass(frozen=True)
class Case:
    """A command, in a copy of a place of the world, and what should come of it.

    result: what lies there that the command promises; None: nothing yet. Raises AssertionError if it is not whole."""

    name: str
    arguments: tuple[str, ...]
    place: Callable[[World], Path]
    result: Callable[[Path], object]


CASES = [
    Case("golf data text", DATA, lambda world: world.old_set, data_set),
    Case("train_gpt.py", TRAIN, lambda world: world.data_set, trained),
    Case("train_gpt.py, nothing saved meanwhile", TRAIN_AT_ONCE, lambda world: world.data_set, trained),
    Case("golf run's stages", PIPELINE, lambda world: world.data_set, bpb),
    Case("golf pack", PACK, lambda world: world.trained, artifact),
    Case("eval_heldout.py", SCORE, lambda world: world.packed, bpb),
    Case("golf unpack", UNPACK, lambda world: world.packed, lambda place: digest(place / "unpacked")),
    Case("golf verify", VERIFY, lambda world: world.packed, lambda place: "leaves nothing"),
    Case("golf log note", NOTE, lambda world: world.tree, lambda place: bool(logged(place)) or None),
    Case("golf ladder ask", ASK, lambda world: world.packed, answer),
    Case("golf record make", MAKE, lambda world: world.record_runs, record_names),
    Case("golf board --site", BOARD, lambda world: world.old_site, site),
]


@dataclasses.dataclass
class Row:
    """What came of the tries of one test."""

    test: str
    tried: int = 0
    survived: int = 0
    lost: list[str] = dataclasses.field(default_factory=list)
    left_behind: list[str] = dataclasses.field(default_factory=list)

    def count(self, wrong: list[str], left: set[str]) -> None:
        """Adds a try, with what was wrong and what was left."""
        self.tried += 1
        self.survived += not wrong
        self.lost += wrong
        self.left_behind += sorted(left)


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a case comes to without bad luck."""

    before: object
    after: object
    files: set[str]
    seconds: float
    bytes: int  # that the command adds to the disk

    @classmethod
    def of(cls, case: Case, world: World, folder: Path) -> "Reference":
        place = shutil.copytree(case.place(world), folder / "reference", symlinks=True)
        before, size, begin = case.result(place), used(place), time.monotonic()
        wrong = run(place, case.arguments)
        seconds = time.monotonic() - begin
        assert not wrong, wrong
        found = cls(before, case.result(place), files(place), seconds, max(0, used(place) - size))
        shutil.rmtree(place)
        assert found.after is not None
        return found


def used(place: Path) -> int:
    """Bytes of the files in a place."""
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and not path.is_symlink())


def judge(case: Case, place: Path, reference: Reference) -> tuple[list[str], set[str]]:
    """What is wrong in a place after bad luck, and what lies there too much once the command ran again."""
    wrong = []
    if left := still_there(place):
        wrong.append(f"{len(left)} processes went on")
    try:
        if case.result(place) not in (reference.before, reference.after):
            wrong.append("what lies there is neither the old nor the new")
    except Exception as error:  # whatever is wrong with a file that should be whole
        wrong.append(f"{type(error).__name__}: {error}")
    if again := run(place, case.arguments):
        if not (case.name.startswith(KEEP) and case.result(place) == reference.after):
            wrong.append(f"again: {again}")
    try:
        if case.result(place) != reference.after:
            wrong.append("again: another result")
    except Exception as error:
        wrong.append(f"again: {type(error).__name__}: {error}")
    return wrong, files(place) - reference.files
