"""The kinds of files: what makes a sound one, what mutates it, who reads it.

Not covered: the mutations that several kinds share (artifacts.py, tensors.py, tests/support/mutations.py).
"""

import contextlib
import gc
import hashlib
import json
import random
import shutil
import signal
from dataclasses import fields
from pathlib import Path
from unittest import mock

import numpy as np

import train_gpt
from compress.allocate import Forecast
from compress.lab.measure import dev_text
from compress.pack import pack_run
from compress.quantise import STATES
from compress.trellis import trellis_table
from golf import container
from golf.files import Failure
from golf.shards import HEADER_BYTES, read_shard
from scoring.score import read_artifact, read_documents
from tests.redteam.fuzz import artifacts, tensors
from tests.redteam.fuzz.engine import Kind, is_refusal
from tests.redteam.fuzz.weights import Found, read_one
from tests.support import ROOT, mutations
from tests.support.packed import make_run
from tests.support.texts import prose
from tools.data import check, cli
from tools.sweep.spec import Grid, Study, check_fields, read_spec

TRAIN = """--preset=tiny --vocab_size=700 --seq_len=64 --num_layers=1 --model_dim=32 --batch_tokens=512
    --micro_batch_tokens=256 --calibration_tokens=256 --dev_tokens=256 --max_seconds=0 --max_steps=3
    --compile=false --checkpoint_every=1""".split()
WHOLE = 10  # one case of so many goes on to the end of what is slow: rounding, and a search by Optuna


class Enough(Exception):
    """A reader has accepted the file, and what comes now is the same for all."""


def sound_artifact(folder: Path) -> bytes:
    """An artifact of a toy. It is not run in a box: nothing is wrong with it yet."""
    run = make_run(folder)
    with mock.patch("compress.pack.check_packed", lambda *_: []):
        pack_run(run)
    return (run / "model.golf").read_bytes()


class Artifact(Kind):
    name = "artifact"

    def __init__(self, folder: Path):
        self.sections = container.read(sound_artifact(folder / "toy"))
        self.folder = folder / "artifact"
        self.folder.mkdir()
        self.target = self.folder / "case.golf"

    def mutate(self, rng: random.Random) -> bytes:
        return artifacts.mutate(rng, self.sections)

    def read(self, number: int) -> None:
        submission, tokenizer, _ = read_artifact(self.target)
        json.dumps(submission.config).encode()
        assert 1 <= tokenizer.vocab_size <= 65_536
        if submission.weights != self.sections["WGTS"]:
            found = Found()
            read_one(self.target, number, found)
            (self.folder / "case.out").unlink()
            if found.faults:
                raise RuntimeError(found.faults[0])
            if found.messages:
                raise Failure(next(iter(found.messages)))

    def commands(self) -> list[list[str]]:
        file = str(self.target)
        return [["compress", command, file] for command in ("size", "inspect", "verify")]


class RunFile(Kind):
    """A file that a run leaves for the packer."""

    def __init__(self, folder: Path):
        self.run = make_run(folder / "run")
        self.sound = {name: (self.run / name).read_bytes() for name in ("checkpoint.pt", "statistics.pt")}
        self.target = self.run / f"{self.name}.pt"
        self.forecast = Forecast(trellis_table(STATES))  # a second for each case otherwise

    def mutate(self, rng: random.Random) -> bytes:
        return tensors.mutate(rng, self.sound[self.target.name], self.edit)

    def edit(self, rng: random.Random, value: dict) -> None:
        """Mutations of the kind's own, in place."""

    def read(self, number: int) -> None:
        def enough(stage: str, *_):
            if stage == "checking" or number % WHOLE:
                raise Enough

        with mock.patch("compress.allocate.Forecast", lambda trellis: self.forecast), contextlib.suppress(Enough):
            pack_run(self.run, progress=enough)

    def commands(self) -> list[list[str]]:
        return [["compress", "pack", str(self.run)], ["compress", "inspect", str(self.run)]]


SOURCES = (
    "",
    "\0",
    "\ud800",
    "\ufeffx = 1\n",
    "def f(:\n",
    "x = " + "(" * 5000 + ")" * 5000,
    "if x: pass\n" + "elif x: pass\n" * 20_000,
    "x = 0x" + "f" * 6000,
    "#" + "x" * 5_000_000,
    "x = 1\n" * 200_000,
    "raise SystemExit(3)\n",
    "import os\nos._exit(7)\n",
    "Config = build_model = 3\n",
)


class CheckpointFile(RunFile):
    name = "checkpoint"

    def edit(self, rng: random.Random, value: dict) -> None:
        kind = rng.randrange(3)
        if kind == 0:
            value["source"] = rng.choice(SOURCES)
        elif kind == 1:
            value["config"] = rng.choice(({1: 2}, {"a": 1e999}, {"a": "x" * 2_000_000}, {"\ud800": 1}, nested(900)))
        else:
            name = rng.choice(list(value["model"]))
            shape = rng.choice(((4, 4), (16, 16, 16), (1, 300), (2,) * 9, (0, 16)))
            value["model"][name] = tensors.torch.randn(shape)
        value["source_sha256"] = hashlib.sha256(value["source"].encode(errors="replace")).hexdigest()


def nested(depth: int) -> dict:
    """A dict in a dict in a dict."""
    value: dict = {}
    for _ in range(depth):
        value = {"a": value}
    return value


class StatisticsFile(RunFile):
    name = "statistics"

    def edit(self, rng: random.Random, value: dict) -> None:
        tap = rng.choice(list(value["taps"]))
        name = rng.choice(list(value["linear"]))
        size = len(value["taps"][tap])
        kind = rng.randrange(5)
        if kind == 0:  # indefinite
            value["taps"][tap] = tensors.torch.randn(size, size)
        elif kind == 1:
            value["taps"][tap] = rng.choice((1e30, 1e-300, -1.0)) * tensors.torch.ones(size, size).double()
        elif kind == 2:
            value["linear"][name]["output_gradient"] *= rng.choice((-1.0, 0.0, 1e30, 1e-38))
        elif kind == 3:
            value["linear"][name]["tap"] = rng.choice(list(value["taps"]))
        else:
            value["tokens"] = rng.choice((0, -1, 2**70))


class DataSet(Kind):
    """Kinds that lie in a data set of the kit's own making."""

    def __init__(self, folder: Path):
        texts, self.data = folder / "texts", folder / "data"
        texts.mkdir()
        rng = random.Random(0)
        for index in range(60):
            (texts / f"{index}.txt").write_text(prose(index, rng.randint(40, 120)))
        options = ["text", str(texts), "--out", str(self.data), "--variant", "sp700"]
        self.options = cli.parser().parse_args(options)
        with mock.patch("sys.stdout"), mock.patch("sys.stderr"):
            cli.make_text(self.options)
        self.texts = texts
        self.machine = train_gpt.Machine()  # it times matrices for a second, so once for all cases

    def config(self) -> "train_gpt.Config":
        return train_gpt.parse_config([*TRAIN, f"--data_dir={self.data}"], {})

    def read_as_trainer(self) -> None:
        """As Run does, without a model."""
        config = self.config()
        shards = [
            train_gpt.open_shard(path, config.vocab_size) for path in train_gpt.find_shards(str(self.data), "train")
        ]
        machine = self.machine
        train_gpt.DevSet(config, machine)
        manifest = train_gpt.read_data_file(str(self.data), "manifest.json")
        train_gpt.check_tokenizer(config, train_gpt.read_data_file(str(self.data), "tokenizer.model"), manifest)
        share = train_gpt.read_share(shards, 0, 1)
        train_gpt.Loader(share, 4, config, 0, machine.device)

    def train(self) -> list[str]:
        run = self.data.parent / "run"
        shutil.rmtree(run, ignore_errors=True)
        return ["train_gpt", *TRAIN, f"--data_dir={self.data}", f"--run_dir={run}", "--max_steps=1"]


class ShardFile(DataSet):
    name = "shard"

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.target = self.data / "dev_000000.bin"
        self.sound = self.target.read_bytes()

    def mutate(self, rng: random.Random) -> bytes:
        header = np.frombuffer(self.sound[:HEADER_BYTES], "<i4").copy()
        tokens = np.frombuffer(self.sound[HEADER_BYTES:], "<u2").copy()
        choice = rng.randrange(8)
        if choice == 0:
            return mutations.damaged(rng, self.sound)
        if choice == 1:
            header[rng.randrange(4)] = rng.choice((0, 1, -1, 2, 2**31 - 1, -(2**31), len(tokens) + 1, len(tokens) // 2))
        elif choice == 2:
            tokens[rng.randrange(len(tokens))] = rng.choice((0, 1, 2, 3, 699, 700, 65_535))
        elif choice == 3:
            tokens[:] = rng.choice((0, 1, 5, 699, 700, 65_535))
        elif choice == 4:
            tokens = tokens[: rng.choice((0, 1, 2, 100, 600))]
            header[2] = len(tokens)
        elif choice == 5:
            np.random.default_rng(rng.randrange(1 << 30)).shuffle(tokens)
        elif choice == 6:
            tokens = tokens.byteswap()
        else:
            tokens = np.tile(tokens, rng.choice((2, 40)))
            header[2] = len(tokens)
        return header.tobytes() + tokens.tobytes()

    def read(self, number: int) -> None:
        refusal = None
        for reader in (lambda: read_shard(self.target), self.read_as_trainer):
            try:
                reader()
            except (Failure, train_gpt.RunError) as error:
                refusal = error
        assert check.check(self.data).errors or self.target.read_bytes() == self.sound
        if refusal:
            raise refusal

    def commands(self) -> list[list[str]]:
        return [["golf", "data", "check", str(self.data)], self.train()]


class ManifestFile(DataSet):
    name = "manifest"

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.target = self.data / "manifest.json"
        self.sound = self.target.read_bytes()
        self.value = json.loads(self.sound)

    def mutate(self, rng: random.Random) -> bytes:
        if rng.randrange(8) == 0:
            return mutations.damaged(rng, self.sound)
        path = rng.choice(mutations.places(self.value))
        return mutations.mutant(self.value, path, rng)[1].encode(errors="surrogatepass")

    def read(self, number: int) -> None:
        refusals = []
        for reader in (
            self.read_as_trainer,
            lambda: read_documents(str(self.data), "dev"),
            lambda: dev_text(self.data, (self.data / "tokenizer.model").read_bytes(), 100),
            lambda: check.check(self.data),
            self.build_again,
        ):
            try:
                reader()
            except (Failure, train_gpt.RunError, ValueError) as error:
                refusals.append(error)
        for error in sorted(refusals, key=is_refusal):  # what is none comes first
            raise error

    def build_again(self) -> None:
        """golf data text, where a data set lies already; it stops where it would build."""
        with mock.patch.object(cli.build, "judge", side_effect=Enough), contextlib.suppress(Enough):
            cli.make_text(self.options)

    def commands(self) -> list[list[str]]:
        again = ["golf", "data", "text", str(self.texts), "--out", str(self.data), "--variant", "sp700"]
        return [["golf", "data", "check", str(self.data)], self.train(), again]


def toml(value: object) -> str:
    """A value as TOML, all tables in one line. The top of a file is the lines of its keys."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def toml_file(value: object) -> str:
    if not isinstance(value, dict):
        return f"x = {toml(value)}"
    return "".join(f"{json.dumps(str(key))} = {toml(item)}\n" for key, item in value.items())


ODD_TOML = (
    *mutations.ODD,
    "inf",
    "-inf",
    "nan",
    "1979-05-27T07:32:00Z",
    "1979-05-27",
    "07:32:00",
    "0x" + "f" * 6000,
    "1_000",
    "'''a\nb'''",
    "[{ low = 1, high = 2 }]",
    "{ low = 0.0, high = inf }",
    "{ low = 1, high = 2, log = true }",
    "{ low = 1e-320, high = 1e308, log = true }",
    "{ low = 1, high = 9223372036854775807, step = 1 }",
    "{ low = 0.1, high = 0.3, step = 1e-320 }",
    "[" + "1, " * 100_000 + "2]",
    '["gate"]',
    '"final"',
)
SPEC = {
    "name": "mlp",
    "hypothesis": "A wider MLP is worth fewer steps.",
    "who": "agent",
    "search": "grid",
    "seeds": [1, 2],
    "parallel": 1,
    "processes": 1,
    "objective": "packed",
    "stop_margin": 0.05,
    "fixed": {"preset": "tiny", "max_seconds": 1},
    "space": {"mlp_mult": [2.0, 3.0], "matrix_lr": [0.02, 0.04]},
    "slurm": {"partition": "gpu"},
}
RANDOM = (
    SPEC | {"search": "random", "trials": 3, "search_seed": 1} | {"space": {"matrix_lr": {"low": 0.1, "high": 0.2}}}
)


class SpecFile(Kind):
    name = "spec"

    def __init__(self, folder: Path):
        self.folder = folder
        self.target = folder / "spec" / "SPEC.toml"
        self.target.parent.mkdir()
        self.target.write_text(toml_file(SPEC))
        self.defaults = {field.name: field.default for field in fields(train_gpt.Config)}

    def mutate(self, rng: random.Random) -> bytes:
        value = rng.choice((SPEC, RANDOM))
        if rng.randrange(8) == 0:
            return mutations.damaged(rng, toml_file(value).encode())
        path = rng.choice(mutations.places(value))
        return mutations.mutant(value, path, rng, ODD_TOML, toml_file)[1].encode(errors="surrogatepass")

    def read(self, number: int) -> None:
        spec = read_spec(self.target)
        check_fields(spec, self.defaults)
        if spec.search == "grid":
            points = Grid(spec)
        elif number % WHOLE:
            return
        else:
            points = Study(spec, self.defaults, None, [])
        if len(points):
            points.point(0)

    def commands(self) -> list[list[str]]:
        # A sweep reads the log of runs of its own checkout, even if it does not run
        self.root = self.folder / "checkout"
        for name in ("golf", "tools", "compress", "scoring"):
            shutil.copytree(ROOT / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(ROOT / "train_gpt.py", self.root / "train_gpt.py")
        return [["golf", "sweep", str(self.target), "--dry-run"]]


class ResumeFile(DataSet):
    """The state from which a training that was cut off goes on."""

    name = "resume"

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.run = folder / "run"
        self.signals = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
        run = self.open()
        run.time_steps()
        run.prepare_loop()
        run.progress.step = 1
        run.save_state()
        self.close(run)
        self.target = self.run / "resume_1_0of1.pt"
        self.sound = self.target.read_bytes()
        self.log = (self.run / "train.log").read_bytes()

    def open(self) -> "train_gpt.Run":
        source = Path(train_gpt.__file__).read_text(encoding="utf-8")
        config = train_gpt.parse_config([*TRAIN, f"--data_dir={self.data}", f"--run_dir={self.run}"], {})
        with mock.patch.object(train_gpt, "Machine", lambda: self.machine):
            return train_gpt.Run(config, source)

    def close(self, run: "train_gpt.Run | None") -> None:
        """Lets go of the folder and of the signals."""
        if run is not None:
            run.locked_log.close()
        for name, handler in self.signals.items():
            signal.signal(name, handler)

    def mutate(self, rng: random.Random) -> bytes:
        return tensors.mutate(rng, self.sound)

    def read(self, number: int) -> None:
        gc.collect()  # a run that was refused holds the lock of its log
        (self.run / "train.log").write_bytes(self.log)
        run = None
        try:
            run = self.open()
            run.time_steps()
            run.check_state()
            run.prepare_loop()
            run.step(train_gpt.rates(run.config, run.progress.step, 0.0), run.loader.next)
        finally:
            self.close(run)

    def commands(self) -> list[list[str]]:
        return [["train_gpt", *TRAIN, f"--data_dir={self.data}", f"--run_dir={self.run}"]]


KINDS = {
    kind.name: kind
    for kind in (Artifact, CheckpointFile, StatisticsFile, ResumeFile, ShardFile, ManifestFile, SpecFile)
}
