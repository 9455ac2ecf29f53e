"""The red team's world: a tokenizer of 300 ids, two small splits of one kind of text, and a table of bigrams; and how a
case is scored in it."""

import dataclasses
import functools
import io
import json
import os
import random
import re
import socket
from pathlib import Path

import numpy as np

from golf import container, tokenizer_section
from golf.files import Failure
from golf.tokenizer import Tokenizer
from scoring import score as scoring_score
from tests.redteam.cases import BASE, STORED, Case
from tests.support.box_walls import take_out
from tests.support.scoring_world import DECODE, train_tokenizer, write_data

WORDS = """the sea was grey and a small boat came slowly towards stone harbour wall where old men mended their nets in
silence while gulls cried over salt water wind rose from north cold rain fell on roofs of houses lamps were lit early
children ran home before dark mother stood at door with bread warm still night""".split()
GAIN = 1e-3  # bits per byte: what a trick without effect may differ from the honest score


@dataclasses.dataclass
class Outcome:
    """What the scorer made of a case."""

    case: Case
    verdict: str  # one line, "" if it gave a score
    by: str  # the audits or the box's layer that caught it
    claimed: float | None  # bits per byte of the pass
    honest: float | None  # what the blind audit puts in its place
    ok: bool  # as `must` says


def make_texts(seed, documents=36):
    rng = random.Random(seed)
    weights = [1 / (1 + place) for place in range(len(WORDS))]
    return [" ".join(rng.choices(WORDS, weights, k=rng.choice((10, 40, 60, 90)))) + "." for _ in range(documents)]


class World:
    """Folder `folder`: data/ with dev and gate, artifacts. Its server and open file are bait."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.data, self.outside = self.folder / "data", self.folder / "outside"
        self.outside.mkdir()
        (self.outside / "second.py").write_text("VALUE = 1\n")
        texts, self.server = {"dev": make_texts(1), "gate": make_texts(2)}, socket.create_server(("127.0.0.1", 0))
        manifest = {"format": 1, "splits": {}}
        for split in texts:
            write_data(self.data, texts[split], split)
            manifest["splits"].update(json.loads((self.data / "manifest.json").read_text())["splits"])
        (self.data / "manifest.json").write_text(json.dumps(manifest))
        self.bait = open(self.data / "dev_docs.jsonl", "rb")
        os.set_inheritable(self.bait.fileno(), True)
        os.environ["GOLF_REDTEAM_KNOB"] = "1"
        self.tokenizer = Tokenizer(train_tokenizer(make_texts(3)))
        counts = np.full((300, 300), 0.05)
        for text in make_texts(4, 100):
            symbols = [1, *self.tokenizer.encode(text).tolist(), 1]
            np.add.at(counts, (symbols[:-1], symbols[1:]), 1)
        self.table = np.log(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
        self.stored = np.concatenate([[1, *self.tokenizer.encode(text)] for text in texts["dev"]]).astype(np.int64)

    @functools.cached_property
    def plain(self):
        """Bits per byte of the honest table."""
        return scoring_score.score(self.artifact(Case("plain", "pass", BASE)), str(self.data), "dev", 1)["bpb"]

    def contents(self, case):
        """(fields of Config, weights by name) of a case."""
        if case is STORED:
            return {**case.config, "text": len(self.stored)}, {"table": self.table, "text": self.stored}
        return case.config, {"table": self.table}

    def artifact(self, case):
        script, (config, weights) = case.script, self.contents(case)
        for name, value in (
            ("outside", self.outside),
            ("data", self.data),
            ("pid", os.getpid()),
            ("port", self.server.getsockname()[1]),
            ("fd", self.bait.fileno()),
        ):
            script = script.replace("{" + name + "}", str(value))
        coded = io.BytesIO()
        np.savez_compressed(coded, **weights)
        path = self.folder / f"{hash(case.name):x}.golf"
        container.write(
            path,
            {
                "CODE": container.code_pack(script, DECODE),
                "CONF": container.config_pack(config),
                "TOKN": tokenizer_section.serialise(self.tokenizer.model_bytes),
                "WGTS": coded.getvalue(),
            },
        )
        return str(path)

    def score(self, case, fresh):
        """eval.json's object, with the case's audits. Raises Failure."""
        return scoring_score.score(
            self.artifact(case),
            str(self.data),
            "dev",
            processes=1,
            time_limit=case.seconds,
            audit=case.audit,
            fresh=fresh,
        )

    def run(self, case, fresh="gate"):
        """The Outcome of a case; fresh: the split to compare with, or None."""
        verdict, result = "", None
        try:
            for _ in range(1 + case.twice):
                result = self.score(case, fresh)
        except scoring_score.AuditFailure as failure:
            verdict, result = str(failure), failure.result
        except Failure as failure:
            verdict = str(failure)
        failed = [row["audit"] for row in result["audits"] if row["verdict"] == "fail"] if result else []
        blind = [row["blind_bpb"] for row in result["audits"] if row["audit"] == "blind"] if result else []
        claimed = result["bpb"] if result else None
        by = ", ".join(failed) or ("box: " + verdict.partition("(")[2].partition(")")[0] if verdict else "")
        if case.must == "no gain" and not verdict:
            by = "construction" if claimed > self.plain - GAIN else ""
        return Outcome(case, verdict, by, claimed, blind[0] if blind else None, self.judge(case, verdict, claimed))

    def judge(self, case, verdict, claimed):
        """Whether the outcome is what the case must meet."""
        if case.must == "caught":
            return bool(re.search(case.expect, verdict)) if verdict else False
        if case.must == "no gain":
            return not verdict and claimed > self.plain - GAIN
        return not verdict or case.must == "open"


def take_out_landlock(monkeypatch):
    """From here on in this test, boxes can read the files of the machine: without Landlock, and without a root of their
    own."""
    take_out(monkeypatch, "Landlock", "own root")
