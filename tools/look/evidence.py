"""What lies in the folder of one run, or of one seed of a record: each file read and judged by itself.

A run may be a stranger's, may still be training, and may have ended anywhere: what is not there is empty, and a file
that cannot be used is named with the reason.

Not covered: what the page makes of it (tools/look/page.py).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from golf import schema
from golf.files import ROOT, Failure, check_plain, read_bytes, read_metrics, sha256_file
from golf.foreign import terminal
from golf.script import MAX_BYTES
from tools.records import reading
from tools.runs import folder as run_folder
from tools.runs import watch

FILES = ("train.log", "metrics.jsonl", "run.json", "checkpoint.pt", "model.golf", "eval.json")  # any of them is a run
LAST_LINES = 12  # of the log that the page of a crashed run shows


@dataclass
class Evidence:
    """One run. Empty values stand for files that are not there; faults: {file: why it cannot be used}.

    state: starting, training, saving or crashed; of a run that has ended, what ended it; "recorded" for a record's.
    """

    name: str
    folder: Path
    state: str
    run: dict = field(default_factory=dict)  # run.json
    config: dict = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)  # of metrics.jsonl
    score: dict = field(default_factory=dict)  # eval.json
    artifact: Path | None = None
    script: bytes | None = None
    last_lines: list[str] = field(default_factory=list)  # of train.log
    faults: dict[str, str] = field(default_factory=dict)
    is_record: bool = False

    @property
    def is_trained(self) -> bool:
        """Whether training came to its end by itself."""
        return bool(self.run) and self.run.get("stopped") not in run_folder.TOLD_TO_STOP

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to pack."""
        return (self.folder / "checkpoint.pt").is_file()

    @property
    def track(self) -> str:
        """The name of its track, "" where nothing says it."""
        name = self.run.get("track") or self.config.get("track")
        return name if isinstance(name, str) else ""

    def read(self, path: Path, function: Callable[[Path], Any], empty: Any) -> Any:
        """What `function` makes of a file of the run; `empty` where it is not there, or cannot be used."""
        if not path.exists() and not path.is_symlink():
            return empty
        try:
            return function(path)
        except (Failure, OSError) as error:
            text = str(error).split("\n")[0].removeprefix(f"{path}: ")
            self.faults[path.relative_to(self.folder).as_posix()] = terminal(text)
            return empty

    def read_files(self, run: Path, metrics: Path, score: Path) -> None:
        """Reads run.json, metrics.jsonl and eval.json, which lie elsewhere in a record."""
        self.run = self.read(run, lambda path: schema.read(path, "run"), {})
        self.config = self.run.get("config") or self.config
        self.rows = self.read(metrics, read_metrics, [])
        self.score = self.read(score, lambda path: schema.read(path, "eval"), {})

    def drop_score_of_another(self) -> None:
        """Leaves out a score that is not of the artifact that lies here."""
        if not self.score or self.artifact is None:
            return
        digest = self.read(self.artifact, sha256_file, "")
        if digest != self.score["artifact"]["sha256"]:
            self.faults["eval.json"] = f"it is of another artifact than {self.artifact.name}"
            self.score = {}


def read_run(folder: Path) -> Evidence:
    """A run's folder. Failure if it is none."""
    if not folder.is_dir():
        raise Failure(f"{folder}: no such folder")
    if not any((folder / name).exists() for name in FILES):
        raise Failure(f"{folder}: no run in it: expected one of {', '.join(FILES)}")
    seen = watch.Run(folder)
    state = seen.state if seen.update() else "not trained"
    found = Evidence(folder.resolve().name, folder, state)
    head = found.read(folder / "train.log", run_folder.head, b"")
    found.config = run_folder.config_in(head)
    found.script = run_folder.script_in(head)
    found.last_lines = found.read(folder / "train.log", run_folder.last_lines, [])
    found.last_lines = [line for line in found.last_lines if line.strip()][-LAST_LINES:]
    found.read_files(folder / "run.json", folder / "metrics.jsonl", folder / "eval.json")
    if "run.json" in found.faults:
        found.state = "not known"
    if (folder / "model.golf").is_file():
        found.artifact = folder / "model.golf"
    found.drop_score_of_another()
    return found


def read_record(folder: Path) -> Evidence:
    """The seed of a record whose artifact is the record's. Failure if its record.json is not valid."""
    check_plain(folder)
    record = reading.read_record(folder.resolve() / "record.json")
    seed = record["artifact"]["seed"]
    name = f"{record['number']}_{record['slug']}, seed {seed}"
    found = Evidence(name, folder, "recorded", config=record["config"], is_record=True)
    logs = folder / "logs"
    score = folder / f"eval/seed{seed}.json"
    found.read_files(logs / f"seed{seed}.run.json", logs / f"seed{seed}.metrics.jsonl", score)
    found.script = found.read(folder / "train_gpt.py", lambda path: read_bytes(path, MAX_BYTES), None)
    file = record["artifact"]["file"]
    if file is not None and (folder / file).is_file():
        found.artifact = folder / file
    return found


def read(folder: Path) -> Evidence:
    """A run, or a record. Failure if the folder holds neither."""
    return read_record(folder) if (folder / "record.json").exists() else read_run(folder)


def known_parent(found: Evidence) -> Path | None:
    """The record whose script, byte for byte, the run was made with; the latest of several."""
    if found.script is None:
        return None
    digest = hashlib.sha256(found.script).hexdigest()
    records, _ = reading.read_all(ROOT)
    same = [(data["date"], folder) for folder, data in records.items() if data["script_sha256"] == digest]
    return max(same)[1] if same else None
