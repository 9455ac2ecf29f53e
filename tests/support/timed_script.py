"""A stand-in for a training script of the kit, without torch: what golf par and golf bench-train look for in one."""

from pathlib import Path

TEXT = '''
"""A script that trains nothing."""
import contextlib
import sys
import threading
import time
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Stage:
    until: float
    tokens: int


@dataclass(frozen=True)
class Config:
    preset: str = "pocket"
    data_dir: str = "DATA"
    run_dir: str = ""
    vocab_size: int = 64
    seq_len: int = 8
    num_layers: int = 1
    model_dim: int = 4
    num_heads: int = 1
    num_kv_heads: int = 1
    mlp_mult: float = 2.0
    batch_tokens: int = 4096
    micro_batch_tokens: int = 4096
    max_seconds: float = 600.0
    max_steps: int = 0
    max_tokens: int = 0


PRESETS = {"pocket": {}}


def parse_config(argv, environment):
    kinds = {field.name: field.type for field in fields(Config)}
    given = dict(argument[2:].split("=") for argument in argv)
    return replace(Config(), **{key: kinds[key](value) for key, value in given.items()})


def stages(config, world):
    return [Stage(0.5, config.batch_tokens), Stage(1.0, 2 * config.batch_tokens)]


class Clock:
    def start(self):
        pass

    def tick(self):
        pass

    @contextlib.contextmanager
    def phase(self, name):
        yield


class Optimizers:
    def step(self):
        SLEEP


def main(argv):
    config, clock, optimizers = parse_config(argv, {}), Clock(), Optimizers()
    BEGIN
    clock.start()
    tokens = steps = 0
    for stage in stages(config, 1):
        limit = config.max_tokens or config.max_steps * config.batch_tokens
        while tokens < limit * stage.until and tokens + stage.tokens <= limit:
            optimizers.step()
            steps, tokens = steps + 1, tokens + stage.tokens
            clock.tick()
    with open(config.run_dir + ".steps", "w") as file:
        file.write(f"{steps} {tokens}")
    with clock.phase("calibrate"):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''


def write(path: Path, data: Path, sleep: str = "pass", begin: str = "pass") -> Path:
    """Writes the script: `sleep` is what a step does, `begin` what main() does first; it trains on the set `data`."""
    data.mkdir(exist_ok=True)
    (data / "manifest.json").write_text("{}")
    text = TEXT.strip().replace("DATA", str(data)).replace("SLEEP", sleep).replace("BEGIN", begin)
    path.write_text(text + "\n")
    return path
