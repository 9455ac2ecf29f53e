"""Families of records for the tests of the site, made from the first record. Not a test itself."""

import json
import shutil
from pathlib import Path

from tests.support import ROOT, copy_record
from tools.records import pages, record, standing

BASELINE = ROOT / "records/pocket/0001_baseline"
HOSTILE = (
    """</title></pre></script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">"""
    """ '" &lt; {{ 7 * 7 }}"""
)
README = f"""# {HOSTILE}

<script>window.hacked = 'readme'</script>

![pixel](https://tracker.invalid/pixel.png) [run](javascript:window.hacked=3)
"""
DOCUMENTS = 60  # of each score that are kept: comparing 696 for every record would take the tests seconds


def valid_record(track: str, name: str, **changes) -> dict:
    """A record.json that the schema takes: the first record's under another name, with `changes`."""
    number, _, slug = name.partition("_")
    first = json.loads((BASELINE / "record.json").read_text())
    return first | {"track": track, "number": number, "slug": slug} | changes


def scaled(score: dict, factor: float) -> dict:
    """An eval.json object of the first documents, with every cost times `factor`."""
    return score | {
        "bpb": score["bpb"] * factor,
        "bpb_interval": [end * factor for end in score["bpb_interval"]],
        "slices": {
            name: part | {"bpb": part["bpb"] * factor, "bpb_interval": [end * factor for end in part["bpb_interval"]]}
            for name, part in score["slices"].items()
        },
        "per_document": [row | {"nats": row["nats"] * factor} for row in score["per_document"][:DOCUMENTS]],
    }


def add(root: Path, track: str, number: str, slug: str, factor: float = 1.0, script=str, **changes) -> Path:
    """Writes root/records/<track>/<number>_<slug>: the first record with its bpb times `factor`, and `changes`."""
    folder = root / "records" / track / f"{number}_{slug}"
    copy_record(BASELINE, folder)
    data = json.loads((folder / "record.json").read_text())
    artifact = data["artifact"] | {"file": f"{slug}.golf"} | changes.pop("artifact", {})
    (folder / "baseline.golf").rename(folder / f"{slug}.golf")
    if artifact["file"] is None:
        (folder / f"{slug}.golf").unlink()
    seeds = [row | {"bpb": row["bpb"] * factor} for row in data["seeds"]]
    data |= {
        "track": track,
        "number": number,
        "slug": slug,
        "artifact": artifact,
        "seeds": seeds,
        "bpb_mean": data["bpb_mean"] * factor,
        "bpb_sd": data["bpb_sd"] * factor,
    } | changes
    (folder / "record.json").write_text(json.dumps(data))
    for path in (folder / "eval").iterdir():
        path.write_text(json.dumps(scaled(json.loads(path.read_text()), factor)))
    (folder / "train_gpt.py").write_text(script((folder / "train_gpt.py").read_text()))
    if data["parent"]:
        parent = next(root.glob(f"records/*/{data['parent']}"))
        (folder / "parent.diff").write_text(
            record.parent_diff(parent, folder.name, (folder / "train_gpt.py").read_bytes())
        )
    return folder


def audits(*verdicts: str) -> list[dict]:
    return [
        {"audit": name, "verdict": verdict, "detail": f"{name}: 2,000 positions in 518 documents"}
        for name, verdict in zip(("blind", "twice", "order"), verdicts)
    ]


def change(folder: Path, number: int, **changes) -> None:
    """Sets keys of the eval.json of the seed with this number in the record."""
    seed = json.loads((folder / "record.json").read_text())["seeds"][number]["seed"]
    path = folder / f"eval/seed{seed}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def family(root: Path) -> Path:
    """Five records: a line of three, a side branch that is hostile, and one without scores on another track."""
    add(root, "pocket", "0001", "baseline", date="2026-11-20")
    config = json.loads((BASELINE / "record.json").read_text())["config"]
    wider = add(
        root,
        "pocket",
        "0002",
        "wider",
        0.975,
        parent="0001_baseline",
        date="2026-11-22",
        title="Wider",
        idea="Width 96 instead of 64 for fewer steps.",
        authors=["Ann", "Bob"],
        sources=["https://example.org/paper", "a talk"],
        script=lambda text: text.replace("import math", "import math\nEXTRA = 1\nMORE = 2").replace(
            "vocab_size: int = 1024", "vocab_size: int = 1025"
        ),
        artifact={"bytes": 249_100},
    )
    data = json.loads((root / "records/pocket/0001_baseline/record.json").read_text())
    (root / "records/pocket/0001_baseline/record.json").write_text(
        json.dumps(data | {"config": config | {"model_dim": 64}})
    )
    part = {"bpb": 1.7, "bpb_interval": [1.65, 1.75], "raw_bytes": 400_000, "documents": 30, "nats": 1.0}
    kinds = {f"source {name}": part for name in ("news", "wiki")} | {
        "length 0-255": part,
        "length 256-1023": part,
        "non-ascii 0%": part,
        "non-ascii 5%+": part,
    }
    for number in range(3):
        change(wider, number, format=2, slices=kinds, audits=audits("pass", "pass", "pass"))
    change(
        wider,
        2,
        audits=audits("pass", "note"),
        sandbox=[{"layer": "seccomp: system calls", "active": False, "note": "not on this machine"}],
    )
    add(
        root,
        "pocket",
        "0003",
        "adapts",
        0.93,
        parent="0002_wider",
        date="2026-12-05",
        scope="stream",
        title="Adapts",
        idea="Test-time training on the stream.",
        artifact={"file": None, "bytes": 249_990},
        bpb_sd=None,
        seeds=json.loads((wider / "record.json").read_text())["seeds"][:1],
        script=lambda text: text + "\nLAST = 1\n",
    )
    hostile = add(
        root,
        "pocket",
        "0004",
        "hostile",
        0.99,
        parent="0001_baseline",
        date="2026-12-05",
        scope="none",
        title=HOSTILE,
        idea=HOSTILE,
        authors=[HOSTILE],
        sources=["javascript:window.hacked=4"],
        environment={HOSTILE: HOSTILE},
        config=config | {HOSTILE: HOSTILE},
        script=lambda text: f"# {HOSTILE}\n{text}",
    )
    slices = {HOSTILE: part, "wiki": part}
    for number in range(3):
        change(
            hostile,
            number,
            slices=slices,
            audits=[{"audit": HOSTILE, "verdict": HOSTILE, "detail": HOSTILE}],
            sandbox=[{"layer": HOSTILE, "active": True, "note": HOSTILE}],
        )
    (hostile / "README.md").write_text(README)
    odd = add(
        root,
        "open",
        "0001",
        "odd",
        1.1,
        parent="0002_wider",
        title="Odd",
        artifact={"file": None, "bytes": 16_000_000},
        script=lambda text: (wider / "train_gpt.py").read_text(),
    )
    for name in ("logs", "eval"):
        shutil.rmtree(odd / name)
    return root


def build_site(root: Path, out: Path) -> int:
    """The pages of the records below `root`; returns how many. Fails if a record is broken."""
    survey = standing.survey(root, {})
    count, problems = pages.build(survey, out)
    assert survey.problems() + problems == []
    return count
