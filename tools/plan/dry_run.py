"""What our own train_gpt.py says of a configuration before it runs, and what the script weighs in an artifact.

Each question is a process of its own: tools never import the training script. Not covered: scripts of other people.
"""

import json
import os
import subprocess
import sys

from golf.files import ROOT, Failure


def dry_run(arguments: list[str], gpus: int | None) -> tuple[dict, dict, list[dict]]:
    """What the line of JSON of `train_gpt.py --dry-run ARGUMENTS` says for so many GPUs: numbers, Config, its stages.

    A stage is what the script's schedules keep constant: `until` (fraction of the run), extra `loops`, `length` of a
    row, `rows` of `seq_len` tokens in a forward, `accumulate` forwards in a step, `tokens` of a step over all ranks.
    Failure with the script's own message if it fails.
    """
    environment = os.environ | ({} if gpus is None else {"WORLD_SIZE": str(gpus)})
    command = [sys.executable, "train_gpt.py", "--dry-run", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"train_gpt.py --dry-run ended with exit code {done.returncode}"]
        raise Failure(lines[-1].removeprefix("train_gpt.py: "), done.returncode)
    try:
        printed = json.loads(done.stdout)
        keys = ("params", "flops_per_token", "flops_per_step", "memory_per_gpu_bytes")
        return {key: printed[key] for key in keys}, printed["config"], printed["stages"]
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(f"train_gpt.py --dry-run does not print what the plan reads: {error}") from None


def code_bytes() -> int:
    """Bytes of the script and the decoder in an artifact. Failure if packing would refuse the script, which is better
    known before it trains; it cannot ask this itself, as it stands alone."""
    done = subprocess.run(
        [sys.executable, "-m", "compress", "code", "--json"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise Failure(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])["code_bytes"]
