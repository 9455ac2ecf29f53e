"""What is known of each record beyond its own claim: was it scored again, was it trained again, does it beat what stood
before it, how fast is its script. One row for each record, in the words of docs/leaderboard.schema.json.

The README's table, records/leaderboard.json and the site all show these rows. A record whose files are broken takes no
other with it: it has no row, or a row that says what is wrong.

Not covered: whether what scores and additions state is true (golf check, golf reproduce).
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from golf import schema
from golf.files import Failure, check_plain, sha256_file
from golf.foreign import terminal
from golf.progress import track
from golf.tracks import rules_of
from tools.records import additions, lineage, reading, remembered
from tools.records.comparing import arm_inputs, compare, in_words, read_arm

AUDITED = ("full", "deep")  # values of --audit that score blind positions and another order


@dataclass
class Survey:
    """All records below a folder, and what is known of them.

    records: those that can be read, parents before children. rows: {name: row} of these. broken: {name: what is wrong}
    of the others. A name is "pocket/0001_baseline"."""

    root: Path
    records: list[lineage.Record]
    rows: dict[str, dict] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    additions: dict[str, list[dict]] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """One line for each thing that is wrong with a record; it names the file."""
        of_rows = [problem for row in self.rows.values() for problem in row["problems"]]
        return sorted([*self.broken.values(), *of_rows])

    def ranked(self, track_name: str, rules: int) -> list[dict]:
        """Rows of one table, the best first."""
        rows = [row for row in self.rows.values() if (row["track"], row["rules"]) == (track_name, rules)]
        return sorted(rows, key=lambda row: row["rank"])


def read_scores(record: lineage.Record) -> dict[int, dict]:
    """{seed: how its score was made} of the seeds whose eval.json is there. Failure if one is not valid."""
    paths = {row["seed"]: record.folder / "eval" / f"seed{row['seed']}.json" for row in record.data["seeds"]}
    found = {}
    for seed, path in paths.items():
        if path.is_file():
            compute = functools.partial(read_score, record, seed, path)
            found[seed] = remembered.recall("scores", [sha256_file(path)], compute)
    return found


def read_score(record: lineage.Record, seed: int, path: Path) -> dict:
    """The part of an eval.json that says how the score was made. Failure if it is not valid."""
    try:  # read with the record's other files, which are soon needed
        arm = read_arm(str(record.folder), arm_inputs(record))
        score = arm.scores[arm.seeds.index(seed)]
    except (Failure, OSError, LookupError, ValueError):
        score = schema.read(path, "eval")
    failed = any(row["verdict"] == "fail" for row in score.get("audits", []))
    return {
        "artifact_sha256": score["artifact"]["sha256"],
        "audited": score.get("audit") in AUDITED and not failed,
        "certified": score.get("certified") is True,
    }


def scored(record: dict, scores: dict[int, dict], added: list[dict]) -> dict:
    """How many seeds' artifacts were scored with audits, and certified: by the record's own scores, or by additions.

    Of several scores of an artifact, the strongest counts, and the latest of these."""
    chosen = []
    differences = []
    for row in record["seeds"]:
        own = scores.get(row["seed"])
        candidates = []
        if own is not None:
            strength = own["audited"] + own["certified"]
            candidates.append((strength, record["date"], "record", own["audited"], own["certified"]))
        artifact = own["artifact_sha256"] if own is not None else row.get("artifact_sha256")
        for addition in added:
            is_of_it = addition["seed"] == row["seed"] and addition["artifact"]["sha256"] == artifact
            if addition["kind"] != "scored" or not is_of_it:
                continue
            differences.append(addition["bpb"] - row["bpb"])
            audited, certified = addition["audit"] in AUDITED, addition["certified"]
            candidates.append((audited + certified, addition["date"], "others", audited, certified))
        if candidates:
            chosen.append(max(candidates))

    counted = [candidate for candidate in chosen if candidate[0] > 0]
    sources = {source for _, _, source, _, _ in counted}
    return {
        "audited": sum(audited for _, _, _, audited, _ in counted),
        "certified": sum(certified for _, _, _, _, certified in counted),
        "by": "both" if len(sources) == 2 else next(iter(sources), None),
        "date": max((date for _, date, _, _, _ in counted), default=None),
        "again": len(differences),
        "largest_difference": max(differences, key=abs, default=None),
    }


def reproduced(record: dict, added: list[dict]) -> dict:
    """How often the script was trained again, and what came of it: "difference" is the mean of each run's bpb less what
    the record claims for its seed, or claims on average where the seed is a new one."""
    claims = {row["seed"]: row["bpb"] for row in record["seeds"]}
    runs = [addition for addition in added if addition["kind"] == "trained"]
    differences = [run["bpb"] - claims.get(run["seed"], record["bpb_mean"]) for run in runs]
    return {
        "times": len(runs),
        "same_artifact": sum(run["train"]["same_artifact"] for run in runs if run["train"]),
        "bpb_mean": mean(run["bpb"] for run in runs) if runs else None,
        "difference": mean(differences) if runs else None,
        "date": max((run["date"] for run in runs), default=None),
    }


def machine(record: dict) -> str:
    """What the record's runs ran on, in few words."""
    if record.get("par"):
        return f"{record['par']['processor_class']}, {record['par']['processor']}"
    environment = record["environment"]
    parts = [terminal(str(environment.get("device", "unknown")), 200)]
    if isinstance(environment.get("world_size"), int) and environment["world_size"] > 1:
        parts.insert(0, f"{environment['world_size']} x")
    if "threads" in environment:
        parts[-1] += f", {terminal(str(environment['threads']), 20)} threads"
    return " ".join(parts)


def kind(record: lineage.Record) -> tuple:
    """Track, scope and rules, within which records are compared, and then the number."""
    data = record.data
    return data["track"], data["scope"], rules_of(data), data["number"]


def before(record: lineage.Record, records: list[lineage.Record]) -> lineage.Record | None:
    """The row before: the best record of the same track, scope and rules with a smaller number; None for the first."""

    place = kind(record)
    earlier = [other for other in records if kind(other)[:3] == place[:3] and kind(other) < place]
    return min(earlier, key=lambda other: (other.data["bpb_mean"], other.data["number"]), default=None)


def against(root: Path, record: lineage.Record, other: lineage.Record | None) -> dict | None:
    """The claim of a record over the row before it; None for the first of its scope."""
    if other is None:
        return None
    claim = compare(root, record, other, details=False)
    return {
        "record": other.name,
        "gain": claim.get("gain"),
        "interval": claim.get("interval"),
        "p": claim.get("p"),
        "test": None if "problem" in claim else "paired" if claim["paired"] else "unpaired",
        "rivals": claim.get("rivals"),
        "rivals_stated": record.data.get("variants") is not None,
        "proven": claim.get("proven", False),
        "problem": claim.get("problem"),
    }


def make_row(record: lineage.Record, label: str) -> dict:
    """What record.json says, as a row; what is known beyond it is not there yet."""
    data = record.data
    names = ("track", "number", "title", "authors", "agent_help", "date", "parent", "scope", "bpb_mean", "bpb_sd")
    return {
        "record": record.name,
        "rules": rules_of(data),
        "rank": 0,
        "label": label,
        **{name: data[name] for name in names},
        "seeds": len(data["seeds"]),
        "artifact": {"bytes": data["artifact"]["bytes"], "sha256": data["artifact"]["sha256"]},
        "par": data.get("par"),
        "machine": machine(data),
        "scored": scored(data, {}, []),
        "reproduced": reproduced(data, []),
        "against": None,
        "problems": [],
    }


def read_plain(root: Path) -> tuple[dict[Path, dict], dict[Path, str]]:
    """As reading.read_all(); folders that hold links, pipes or masses of files are broken too."""
    records, faults = reading.read_all(root)
    for folder in list(records):
        try:
            check_plain(folder)
        except (Failure, OSError) as error:
            faults[folder] = in_words(error, root)
            del records[folder]
    return records, faults


def survey(root: Path, labels: dict[str, str]) -> Survey:
    """All records below root/records with what is known of them. labels: {name: words for the last column}."""
    records, faults = read_plain(root)
    ordered, without_parent = lineage.link(records)
    result = Survey(root, ordered)
    for folder, fault in faults.items():
        name = terminal("/".join(folder.parts[-2:]))
        result.broken[name] = in_words(Failure(fault), root)

    for record in track(sorted(ordered, key=kind), "reading and comparing records", unit="records"):
        row = make_row(record, labels.get(record.name) or shortened(record.data["idea"]))
        result.rows[record.name] = row
        if record.name in without_parent:
            row["problems"].append(in_words(Failure(without_parent[record.name]), root))
        try:
            scores = read_scores(record)
            row["scored"] = scored(record.data, scores, [])
            result.additions[record.name] = additions.read(record.folder)
            row["scored"] = scored(record.data, scores, result.additions[record.name])
            row["reproduced"] = reproduced(record.data, result.additions[record.name])
        except (Failure, OSError) as error:
            row["problems"].append(in_words(error, root))
        row["against"] = against(root, record, before(record, ordered))

    for rows in tables(result).values():
        for rank, row in enumerate(sorted(rows, key=lambda row: (row["bpb_mean"], row["number"])), start=1):
            row["rank"] = rank
    return result


def tables(result: Survey) -> dict[tuple[str, int], list[dict]]:
    """{(track, rules): rows} of the tables that have rows."""
    found: dict[tuple[str, int], list[dict]] = {}
    for row in result.rows.values():
        found.setdefault((row["track"], row["rules"]), []).append(row)
    return found


LABEL_WORDS = 12


def shortened(idea: str) -> str:
    """The first words of an idea, for a record without a label."""
    words = idea.split()
    return " ".join(words[:LABEL_WORDS]) + (" ..." if len(words) > LABEL_WORDS else "")
