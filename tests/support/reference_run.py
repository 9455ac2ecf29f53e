"""What a training script computes in a few fixed steps: every loss, and hashes of all that it leaves behind.

    python tests/support/reference_run.py train_gpt.py /tmp/after.json [--cases plain two_ranks ...]
    python tests/support/reference_run.py --compare /tmp/before.json /tmp/after.json

Run it with the script of before a change and with that of after it, on one machine: a change that should compute the
same gives the same losses and the same hashes. Each case is a run of the real main() in a process of its own (for two
ranks, in two), on synthetic documents, or on a corpus where one is given with --data. Across machines only the losses
can be compared, to about 1e-5, because processors round differently.

Not covered: time; the choice of the CPU's compute type, which is fixed here because it is made by timing.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

EVERYTHING = """--num_layers=4 --num_heads=4 --num_kv_heads=2 --rope_dims=4 --ln_scale --leaky_slope=0.5 --xsa
    --attn_gate=12 --smear_gate=12 --gated_skips --loops=2 --parallel_start=3 --loop_first=1 --loop_last=2
    --loop_from=0.4 --ortho_init --muon_polar --muon_row_norm --weight_decay=0.1 --embed_decay=0.1 --decay_taper=0.5
    --stages=0.3:32:512 --dev_evals=3""".split()
SHORT = "--max_seconds=0 --max_steps=8 --seed=11".split()
SMALL = """--preset=tiny --vocab_size=64 --seq_len=64 --model_dim=32 --batch_tokens=1024 --micro_batch_tokens=512
    --calibration_tokens=1024 --dev_tokens=2048""".split()
# name -> (ranks, compute type, arguments); in POCKET, the preset at its full size on a corpus
CASES = {
    "plain": (1, "float32", [*SMALL, *SHORT, "--compile=false"]),
    "everything": (1, "float32", [*SMALL, *EVERYTHING, "--document_mask", *SHORT, "--compile=false"]),
    "bfloat16": (1, "bfloat16", [*SMALL, *EVERYTHING, *SHORT, "--compile=false"]),
    "two_ranks": (2, "float32", [*SMALL, *EVERYTHING, *SHORT, "--compile=false"]),
    # With torch.compile, one graph each: what is on in the 16mb preset, and attention in blocks
    "compiled": (1, "float32", [*SMALL, *EVERYTHING, "--loops=0", "--stages=", "--document_mask", *SHORT]),
    "compiled_blocks": (1, "float32", [*SMALL, *SHORT]),
}
POCKET = {
    "pocket": (1, "float32", ["--preset=pocket", "--calibration_tokens=16384", *SHORT, "--compile=false"]),
    "pocket_compiled": (1, "float32", ["--preset=pocket", "--calibration_tokens=16384", *SHORT]),
}


def load(script: Path):
    """The script as a module of its usual name."""
    spec = importlib.util.spec_from_file_location("train_gpt", script)
    module = sys.modules["train_gpt"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def watch_losses(script, compiled: bool) -> list[float]:
    """A list that every loss of a training step goes into, rounded nowhere; the warm-up is undone, and not compared."""
    import torch

    losses = []
    loop = script.Run.loop

    def loop_alone(run):
        losses.clear()
        loop(run)

    script.Run.loop = loop_alone

    def watched(function):
        def call(*values):
            loss = function(*values)
            if torch.is_grad_enabled():
                losses.append(loss.item())
            return loss

        return call

    if not compiled:
        script.GPT.loss = watched(script.GPT.loss)
        return losses
    plain = torch.compile

    def compile_and_watch(function, **options):
        result = plain(function, **options)
        return watched(result) if function.__name__ == "loss" else result

    torch.compile = compile_and_watch
    return losses


def child(script_path: str, dtype: str, out: str, arguments: list[str]) -> None:
    """One rank of one case; rank 0 writes what it found to `out`."""
    import torch

    script = load(Path(script_path))

    def choose(machine):
        machine.dtype = getattr(torch, dtype)
        machine.peak_flops = 1e12
        machine.why = "fixed"

    script.Machine.choose_cpu_dtype = choose
    losses = watch_losses(script, "--compile=false" not in arguments)
    code = script.main(arguments)
    if code:
        sys.exit(code)
    if os.environ.get("RANK", "0") == "0":
        Path(out).write_text(json.dumps(losses), encoding="utf-8")


def digest(value) -> str:
    """A hash of tensors in nested dicts and lists, names and order included."""
    import torch

    state = hashlib.sha256()

    def add(part) -> None:
        if isinstance(part, torch.Tensor):
            state.update(f"{part.dtype}{tuple(part.shape)}".encode())
            state.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(part, dict):
            for key, inner in part.items():
                add(key)
                add(inner)
        elif isinstance(part, (list, tuple)):
            for inner in part:
                add(inner)
        else:
            state.update(repr(part).encode())

    add(value)
    return state.hexdigest()[:16]


def scored_nats(script_path: Path, checkpoint: dict, tokens) -> float:
    """Nats of the Scorer, all its modes on, over two documents, in a process of its own."""
    code = (
        "import sys, torch; from tests.support import reference_run as r; t = r.load(sys.argv[1])\n"
        "config, model, tokens = torch.load(sys.argv[2], weights_only=True)\n"
        "config = t.Config(**config | dict(score_chunk=16, score_context=24, score_lr=1e-3, score_counts=True))\n"
        "torch.set_num_threads(1)\n"
        "net = t.build_model(config).eval(); net.load_state_dict(model); scorer, nats = t.Scorer(net, config), 0.0\n"
        "for document in tokens.split(len(tokens) // 2):\n"
        "    scorer.start(1)\n"
        "    for chunk in document.split(scorer.chunk):\n"
        "        with torch.no_grad(): logits = scorer.logits(chunk[None])[0].double()\n"
        "        nats -= logits.log_softmax(-1).gather(1, chunk[:, None]).sum().item(); scorer.observe()\n"
        "print(repr(nats))\n"
    )
    import torch

    with tempfile.TemporaryDirectory() as folder:
        torch.save([checkpoint["config"], checkpoint["model"], tokens], f"{folder}/state.pt")
        done = subprocess.run(
            [sys.executable, "-c", code, script_path, f"{folder}/state.pt"],
            cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=True,
        )  # fmt: skip
    return float(done.stdout)


def run_case(script: Path, data: Path, case: tuple, folder: Path) -> dict:
    """Losses, hashes and numbers of one case. Raises RuntimeError with what the script said if it fails."""
    import numpy as np
    import torch

    ranks, dtype, arguments = case
    out, run = folder / "losses.json", folder / "run"
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    own = [__file__, "--child", str(script.resolve()), dtype, str(out)]
    command = [*start, *own, *arguments, f"--data_dir={data.resolve()}", f"--run_dir={run}"]
    environment = {key: value for key, value in os.environ.items() if key != "SEED"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    statistics = torch.load(run / "statistics.pt", weights_only=True)
    result = json.loads((run / "run.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    dev = np.fromfile(next(data.glob("dev_*.bin")), "<u2", offset=1024, count=96).astype(np.int64)
    return {
        "losses": json.loads(out.read_text(encoding="utf-8")),
        "dev_bpb": [row["dev_bpb"] for row in rows if "dev_bpb" in row],
        "scored_nats": scored_nats(script.resolve(), checkpoint, torch.from_numpy(dev)),
        "weights": digest(checkpoint["model"]),
        "statistics": digest(statistics),
        "artifact_config": json.dumps(checkpoint["config"]),
        "run": {key: result[key] for key in ("tokens", "params", "flops_per_token", "steps", "train_loss")},
        "config": {key: value for key, value in result["config"].items() if not key.endswith("_dir")},
        "keys": {
            "run.json": sorted(result),
            "metrics.jsonl": sorted(set().union(*rows)),
            "clock": sorted(result["clock"]),
            "checkpoint": sorted(checkpoint),
        },
    }


def write_data(folder: Path) -> None:
    """Documents of a first-order Markov chain over 64 tokens, in the shards' format."""
    import numpy as np

    def shard(name: str, count: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        steps = generator.integers(0, 20, count)
        steps = np.where(steps < 16, 1, np.where(steps < 19, 2, 7))
        tokens = 4 + np.cumsum(steps) % 60
        tokens[0] = tokens[generator.integers(0, count, count // 90)] = 1
        header = np.zeros(256, "<i4")
        header[:3] = 20240520, 1, count
        (folder / name).write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())

    shard("train_000000.bin", 20_000, 0)
    shard("train_000001.bin", 20_000, 1)
    shard("dev_000000.bin", 4000, 9)
    (folder / "tokenizer.model").write_bytes(b"stand-in for a tokenizer")
    manifest = {"splits": {"dev": {"raw_bytes": 10_000, "tokens": 4000}}}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def measure(script: Path, names: list[str], corpus: Path | None = None) -> Iterator[tuple[str, dict]]:
    """(case, what it computed) of each case."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            data.mkdir()
            write_data(data)
            case = (CASES | POCKET)[name]
            yield name, run_case(script, corpus if name in POCKET else data, case, Path(folder))


def differences(before: dict, after: dict) -> list[str]:
    """One line for each case that both have: the largest relative difference of a loss, and what else differs."""
    lines = []
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        pairs = zip(old["losses"], new["losses"])
        worst = max((abs(a - b) / abs(a) for a, b in pairs), default=0.0)
        others = [key for key in old if key != "losses" and old[key] != new.get(key)]
        count = len(old["losses"])
        if len(new["losses"]) != count:
            others.append(f"number of losses ({count}, {len(new['losses'])})")
        lines.append(f"{name}: {count} losses, largest difference {worst:.1e}; other differences: {others or 'none'}")
    return sorted(lines)


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        script, dtype, out, *arguments = sys.argv[2:]
        child(script, dtype, out, arguments)
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("first", type=Path, metavar="SCRIPT|BEFORE", help="the script to run, or a result to compare")
    parser.add_argument("second", type=Path, metavar="OUT|AFTER", help="where the result goes, or the other result")
    parser.add_argument("--compare", action="store_true", help="compare two results")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *POCKET], default=list(CASES), help="default: synthetic")
    parser.add_argument("--data", type=Path, help="the corpus of the pocket cases")
    arguments = parser.parse_args()
    if arguments.compare:
        before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (arguments.first, arguments.second))
        print("\n".join(differences(before, after)))
        return 0
    names = arguments.cases
    found = {}
    for number, (name, result) in enumerate(measure(arguments.first, names, arguments.data), 1):
        found[name] = result
        arguments.second.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{number}/{len(names)} {name}: last loss {result['losses'][-1]:.6f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
