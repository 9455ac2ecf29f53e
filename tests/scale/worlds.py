"""The two worlds of the scale tests: a repository with many records, and a folder with many documents.

Records are the latest of this repository under other numbers, with scripts that differ in some places and scores that
differ in every document, so that none can be taken for another. Not covered: whether such records would pass a check.
"""

import json
import os
import random
import re
import shutil
from pathlib import Path

from tests.support import ROOT, edit_json
from tests.support.texts import prose
from tools.records import record

TEMPLATE = ROOT / "records/pocket/0006_case_operators_under_par"
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+")
EDITS, ADDED_LINES = 6, 12  # of a record's script: numbers that are changed, lines that are new
ALIKE = ("artifacts", "logs", "curves.png", "README.md")  # of all records: linked, which takes no room


def records(root: Path, count: int) -> None:
    """Makes root/records with one record of this repository and `count` more, and README.md. Each of these builds on
    one of the ten before it."""
    own = root / "records/pocket" / TEMPLATE.name
    shutil.copytree(TEMPLATE, own, ignore=shutil.ignore_patterns("additions"))  # they would name another record.json
    edit_json(own / "record.json", parent=None)
    shutil.copy2(ROOT / "README.md", root / "README.md")
    draw = random.Random(1)
    data = json.loads((TEMPLATE / "record.json").read_text())
    scores = {path.name: json.loads(path.read_text()) for path in (TEMPLATE / "eval").iterdir()}
    family = [TEMPLATE.name]
    for number in range(int(data["number"]) + 1, int(data["number"]) + 1 + count):
        name = f"{number:04d}_variant"
        folder, parent = root / "records/pocket" / name, draw.choice(family[-10:])
        factor = 1 - 0.0004 * number + draw.uniform(-0.0002, 0.0002)
        copy_alike(own, folder)
        script = edited((root / "records/pocket" / parent / "train_gpt.py").read_text(), number, draw)
        (folder / "train_gpt.py").write_text(script)
        (folder / "parent.diff").write_text(record.parent_diff(folder.parent / parent, name, script.encode()))
        (folder / "eval").mkdir()
        for file, score in scores.items():
            (folder / "eval" / file).write_text(json.dumps(score_like(score, factor, draw)))
        seeds = [row | {"bpb": row["bpb"] * factor} for row in data["seeds"]]
        values = {"number": f"{number:04d}", "slug": "variant", "parent": parent, "seeds": seeds}
        values |= {"title": f"Variant {number}", "bpb_mean": data["bpb_mean"] * factor}
        (folder / "record.json").write_text(json.dumps(data | values))
        family.append(name)


def copy_alike(template: Path, folder: Path) -> None:
    """Makes the folder of a record with what it has in common with all others."""
    folder.mkdir()
    for name in ALIKE:
        if (template / name).is_dir():
            shutil.copytree(template / name, folder / name, copy_function=os.link)
        else:
            os.link(template / name, folder / name)


def edited(script: str, number: int, draw: random.Random) -> str:
    """A script with some numbers changed, and a function more."""
    places = draw.sample(list(NUMBER.finditer(script)), EDITS)
    for place in sorted(places, key=lambda match: -match.start()):
        script = script[: place.start()] + f"{float(place[0]) * 1.01 + number * 1e-6:.9g}" + script[place.end() :]
    lines = [f"    total += {draw.random():.6f} * scale ** {line}" for line in range(ADDED_LINES - 3)]
    return script + "\n".join(["", "", f"def variant_{number}(scale, total=0.0):", *lines, "    return total", ""])


def score_like(score: dict, factor: float, draw: random.Random) -> dict:
    """An eval.json object with every cost times about `factor`."""
    rows = [
        row
        | {
            "nats": row["nats"] * factor * draw.uniform(0.999, 1.001),
            "position_nats": [nats * factor for nats in row["position_nats"]],
        }
        for row in score["per_document"]
    ]
    return score | {"bpb": score["bpb"] * factor, "per_document": rows}


def texts(folder: Path, documents: int, large_bytes: int) -> None:
    """Makes a folder with `documents` short documents in one file, and one of `large_bytes` bytes in another."""
    folder.mkdir()
    draw = random.Random(1)
    words = " ".join(prose(seed, 2000) for seed in range(100)).split()
    with open(folder / "short.jsonl", "w") as file:
        for _ in range(documents):
            text = " ".join(draw.choices(words, k=draw.randint(20, 140)))
            file.write(json.dumps({"text": text}) + "\n")
    with open(folder / "large.txt", "w") as file:
        left = large_bytes
        while left > 0:
            left -= file.write(" ".join(draw.choices(words, k=11))[: left - 1] + "\n")
