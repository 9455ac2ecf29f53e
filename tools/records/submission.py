"""A record under review: its files, read when a rule asks; its artifacts, scored again; the records beside it.

Nothing in record.json is believed that a file of the folder or a new score can contradict. Nothing of the folder runs
here: its script is read, and only the scorer's box runs what an artifact holds.

Not covered: what is made of all this (the rules).
"""

import functools
import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from golf import schema, temporary, versions
from golf.children import end_with_parent
from golf.files import ROOT, Failure, check_plain, read_bytes, sha256_file
from golf.script import MAX_BYTES
from golf.tracks import RULES_VERSION, rules_of
from tools.records import artifacts, reading
from tools.records.verdicts import NoScore, NotHere

WITHOUT_QUICK = "run golf check without --quick"


@dataclass(frozen=True)
class Committed:
    """Where a record lies in the history of this clone: a revision, and the folder's path in it."""

    revision: str
    path: str


class Submission:
    """A record's folder: plain files, and a record.json as its schema says, or Failure. The other files are read when a
    rule asks; a Failure then makes that rule FAIL.

    folder: the record's files. data: the data set, if whoever checks names one. scores: whether to do what takes
    minutes. root: the repository whose records it is held against. committed: where the folder comes from, if from a
    commit; by default, `root`'s last commit if the folder lies there. more: another folder with records/, of the same
    commit.
    """

    def __init__(
        self,
        folder: Path,
        data: Path | None = None,
        scores: bool = True,
        root: Path = ROOT,
        committed: Committed | None = None,
        more: Path | None = None,
    ):
        check_plain(folder)
        self.folder, self.scores, self.root, self.more = folder.resolve(), scores, root, more
        self.record = schema.read(folder / "record.json", "record")
        self.rules = rules_of(self.record)
        if self.rules > RULES_VERSION:
            raise Failure(
                f"{folder}: made under version {self.rules} of the rules, this clone knows versions up to "
                f"{RULES_VERSION}: update the clone"
            )
        self.committed = committed
        if committed is None and self.folder.is_relative_to(root.resolve()):
            self.committed = Committed("HEAD", self.folder.relative_to(root.resolve()).as_posix())
        self._data = data

    @property
    def name(self) -> str:
        """track/number_slug, as the record calls itself."""
        return f"{self.record['track']}/{self.record['number']}_{self.record['slug']}"

    @property
    def seeds(self) -> list[int]:
        return [row["seed"] for row in self.record["seeds"]]

    @functools.cached_property
    def runs(self) -> list[dict]:
        return [schema.read(self.folder / f"logs/seed{seed}.run.json", "run") for seed in self.seeds]

    @functools.cached_property
    def evals(self) -> list[dict]:
        return [schema.read(self.folder / f"eval/seed{seed}.json", "eval") for seed in self.seeds]

    @functools.cached_property
    def script(self) -> bytes:
        return read_bytes(self.folder / "train_gpt.py", MAX_BYTES)

    @functools.cached_property
    def script_sha256(self) -> str:
        return hashlib.sha256(self.script).hexdigest()

    @functools.cached_property
    def artifacts(self) -> dict[int, Path | None]:
        """The artifact of each seed; None where the record, of format 1, has none. Failure if one is missing, or is
        not the one that record.json names."""
        try:
            return {seed: artifacts.locate(self.folder, self.record, seed) for seed in self.seeds}
        except artifacts.Unreachable as error:
            raise NotHere(str(error), "check again where the hub can be reached") from None

    @property
    def data(self) -> Path:
        """The data set on this machine: the one named, or that of the same place in data/. A record chooses no other
        folder of the machine, and none that travels with the record."""
        stated = Path(os.path.normpath(self.root / self.runs[0]["data"]["dir"]))
        known = stated.is_relative_to(self.root / "data")
        return self._data or (stated if known else self.root / "data" / "not-known")

    def check_data(self) -> None:
        """Raises NotHere unless the record's data set is on this machine."""
        manifest, stated = self.data / "manifest.json", self.record["data"]["manifest_sha256"]
        fix = "build the data set (golf data), or name its folder with --data"
        if not manifest.exists():
            raise NotHere(f"{self.data}: the data set is not here", fix)
        if sha256_file(manifest) != stated:
            raise NotHere(f"{self.data}: another data set than the record's", fix)

    @functools.cached_property
    def others(self) -> dict[Path, dict]:
        """{folder: record.json} of all other records: those of the clone, and those that came with this one."""
        found: dict[str, tuple[Path, dict]] = {}
        for place in (self.root, self.more):
            for folder, record in (reading.read_records(place) if place else {}).items():
                name = "/".join(folder.parts[-2:])
                if name != self.name and folder.resolve() != self.folder:
                    check_plain(folder)
                    found.setdefault(name, (folder, record))
        return dict(found.values())

    @property
    def table(self) -> dict[Path, dict]:
        """The other records with a lower number, of the same track and made under the same version of the rules."""
        return {
            folder: record
            for folder, record in self.others.items()
            if record["track"] == self.record["track"]
            and rules_of(record) == self.rules
            and record["number"] < self.record["number"]
        }

    @functools.cached_property
    def parent(self) -> Path | None:
        """The parent's folder: of the record's track if it is there. Failure if it is named and not there."""
        if self.record["parent"] is None:
            return None
        found = [folder for folder in self.others if folder.name == self.record["parent"]]
        if not found:
            raise Failure(f"no record {self.record['parent']} in records/")
        return min(found, key=lambda folder: folder.parent.name != self.record["track"])

    def check_torch(self) -> None:
        """Raises NotHere unless torch here has the version that the record was made with."""
        stated, here = str(self.record["environment"].get("torch")), versions.torch_here()
        if not versions.same_torch(stated, here):
            what = f"the record was made with torch {stated}, here is {here}: scores differ"
            commit = self.record["seed_commit"][:12]
            raise NotHere(what, f"install torch=={stated.split('+')[0]}, with constraints.txt of commit {commit}")

    @functools.cached_property
    def scored_again(self) -> dict[int, dict]:
        """{seed: eval.json} of every artifact that the record has, scored now, certified and with full audits.

        NotHere where that cannot be done on this machine, NoScore where the scorer refuses an artifact."""
        if isinstance(self._scored_again, (NoScore, NotHere)):
            raise self._scored_again
        return self._scored_again

    @functools.cached_property
    def _scored_again(self) -> dict[int, dict] | NoScore | NotHere:
        try:
            if not self.scores:
                raise NotHere("not scored again with --quick", WITHOUT_QUICK)
            self.check_data()
            self.check_torch()
            found = {seed: score(path, self) for seed, path in self.artifacts.items() if path}
            if not found:
                raise NotHere("no artifact is in the record", "ask its author for the artifacts")
            return found
        except (NoScore, NotHere) as failure:  # kept: three minutes of scoring end the same way for every rule
            return failure


def score(artifact: Path, s: Submission) -> dict:
    """eval.json of an artifact, scored now. Raises NotHere if this machine does not grant the box every layer, NoScore
    if the scorer gives none."""
    with temporary.folder("check") as folder:
        out = folder / "eval.json"
        command = [sys.executable, "eval_heldout.py", str(artifact), "--certify", "--audit", "full", "--out", str(out)]
        command += ["--torch", str(s.record["environment"].get("torch"))]
        command += ["--data", str(s.data.resolve()), "--split", s.record["data"]["split"]]
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=end_with_parent(),
        )
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if said.startswith("eval_heldout: not certified: "):
            raise NotHere(said, "check on a machine that grants the box every layer (docs/audits.md, The box)")
        if done.returncode != 0:
            raise NoScore(f"scoring {artifact.name} failed: {said}")
        return schema.read(out, "eval")
