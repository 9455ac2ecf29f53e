"""A small data set with all that a training script reads: shards of real text, a tokenizer of 300 ids, a manifest. And
the arguments of runs on it that take seconds.

Not covered: the splits gate and final.
"""

from pathlib import Path

import numpy as np

from golf.shards import BOS, write_shard
from golf.tokenizer import Tokenizer
from tests.support import edit_json, scoring_world

SHARD_TOKENS = 12_000
MINIMAL = """--preset=tiny --vocab_size=300 --seq_len=32 --num_layers=1 --model_dim=32 --num_heads=2 --batch_tokens=256
    --max_tokens=2560 --calibration_tokens=512""".split()
KIT = """--preset=tiny --vocab_size=300 --seq_len=32 --num_layers=1 --model_dim=32 --batch_tokens=256
    --micro_batch_tokens=256 --calibration_tokens=512 --dev_tokens=1024 --max_seconds=0 --max_steps=10
    --compile=false""".split()


def write(folder: Path) -> Path:
    """Writes the data set into `folder`, which is made, and returns it."""
    texts = scoring_world.make_texts()
    tokenizer = Tokenizer(scoring_world.train_tokenizer(texts[:25]))
    scoring_world.write_data(folder, texts)
    (folder / "tokenizer.model").write_bytes(tokenizer.model_bytes)
    documents = [np.append(np.uint16(BOS), tokenizer.encode(text)) for text in texts]
    once = np.concatenate(documents)
    for name in ("train_000000.bin", "train_000001.bin", "dev_000000.bin"):
        write_shard(folder / name, np.resize(once, SHARD_TOKENS))
    raw_bytes = sum(len(text.encode()) for text in texts)
    manifest = edit_json(folder / "manifest.json", tokenizer={"vocab_size": tokenizer.vocab_size})
    dev = manifest["splits"]["dev"] | {"tokens": len(once), "raw_bytes": raw_bytes}
    edit_json(folder / "manifest.json", splits={"dev": dev})
    return folder
