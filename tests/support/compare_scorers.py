"""Two scripts' Scorers on one artifact's weights and the same documents, in turns: bits per byte and seconds.

    git show d5bd6be:train_gpt.py > /tmp/before.py
    python -m tests.support.compare_scorers /tmp/before.py train_gpt.py ARTIFACT data/embedded_sp2048_case --every 8

Both run in this process, without a box and without audits, so that what differs is the Scorer alone: trust both scripts
and the artifact. The time is of whole chunks, in seconds of the wall clock. --set gives the second one other fields.

Not covered: what a score costs with its boxes (`golf score`), lanes.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F

from golf import container


def load(path: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Contestant:
    """A script's Scorer, the nats that its rows gave, and the seconds that its chunks took."""

    def __init__(self, script: ModuleType, fields: dict, weights: dict):
        names = {field.name for field in dataclasses.fields(script.Config)}
        config = script.Config(**{name: value for name, value in fields.items() if name in names})
        model = script.build_model(config)
        model.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
        self.scorer = script.Scorer(model.float().eval(), config)
        self.nats = 0.0
        self.seconds = 0.0

    def score(self, tokens: torch.Tensor):
        """tokens [T] of the open document; T is a multiple of the chunk, or what is left."""
        for chunk in tokens.split(self.scorer.chunk):
            start = time.perf_counter()
            rows = self.scorer.logits(chunk[None])[0].detach().float()
            self.seconds += time.perf_counter() - start
            self.nats += F.cross_entropy(rows, chunk, reduction="sum").item()
            start = time.perf_counter()
            self.scorer.observe()
            self.seconds += time.perf_counter() - start


def documents(script: ModuleType, data: Path, vocab_size: int, every: int) -> list[torch.Tensor]:
    """Tokens [T] of each `every`-th document of dev, the token that ends it included."""
    [shard] = sorted(data.glob("dev_*.bin"))
    tokens = torch.from_numpy(np.asarray(script.open_shard(shard, vocab_size), dtype=np.int64))
    starts = (tokens == script.BOS).nonzero().flatten().tolist()
    ends = [*starts[1:], len(tokens)]
    end = torch.tensor([script.BOS])
    return [torch.cat((tokens[a + 1 : b], end)) for a, b in zip(starts, ends)][::every]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.compare_scorers", description=__doc__.splitlines()[0]
    )
    for name in ("before", "after", "artifact", "data"):
        parser.add_argument(name)
    parser.add_argument("--every", type=int, default=8, metavar="N", help="of the documents take each N-th")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--set", type=json.loads, default={}, metavar="JSON", help="fields of the second script's Config"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    sections = container.read(Path(options.artifact).read_bytes())
    decoder: dict = {"__name__": "decode"}
    exec(container.code_unpack(sections["CODE"])[1], decoder)
    weights = decoder["decode_weights"](sections["WGTS"])
    fields = container.config_unpack(sections["CONF"])
    before, after = load(options.before, "before"), load(options.after, "after")
    pair = [Contestant(before, fields, weights), Contestant(after, fields | options.set, weights)]

    manifest = json.loads((Path(options.data) / "manifest.json").read_text(encoding="utf-8"))["splits"]["dev"]
    chosen = documents(after, Path(options.data), fields["vocab_size"], options.every)
    block = math.lcm(*(each.scorer.chunk for each in pair))
    for number, document in enumerate(chosen):
        for each in pair:
            each.scorer.start(1)
        for part in document.split(block):
            for each in pair if number % 2 else reversed(pair):
                each.score(part)

    tokens = sum(map(len, chosen))
    # These documents' bytes are not counted: the split's tokens have as many bytes on average
    total = manifest["raw_bytes"] * tokens / manifest["tokens"]
    result = {
        "tokens": tokens,
        "bpb": [each.nats / math.log(2) / total for each in pair],
        "seconds": [each.seconds for each in pair],
        "ratio": pair[1].seconds / pair[0].seconds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
