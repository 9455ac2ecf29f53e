"""What a reproduction shows a script of its data set: what it may train on, and no held-out text.

A script that trains on held-out text would else give its record's number again. Estimates on dev decide nothing in a
run of the kit, so its shards stay, with tokens of the training split in them; gate, final and all documents are left
out.

Not covered: where the data set comes from (golf data); a script that has held-out text in itself.
"""

from pathlib import Path

import numpy as np

from golf.shards import read_shard, write_shard

HIDDEN = ("gate_", "final_")
DOCUMENTS = "_docs.jsonl"  # texts of the splits that are scored


def show(data: Path, place: Path) -> list[Path]:
    """Makes the new folder `place` a data set like `data`, of links to its files; returns the files that they lead to.
    Raises Failure if a shard is not one."""
    place.mkdir(parents=True)
    shown = []
    for path in sorted(data.iterdir()):
        if path.name.startswith(HIDDEN) or path.name.endswith(DOCUMENTS):
            continue
        if path.name.startswith("dev_"):
            write_stand_in(path, sorted(data.glob("train_*.bin")), place / path.name)
            continue
        (place / path.name).symlink_to(path.resolve())
        shown.append(path.resolve())
    return shown


def write_stand_in(shard: Path, training: list[Path], out: Path) -> None:
    """A shard as long as `shard`, of the first tokens of the training split, as often as it takes."""
    tokens = read_shard(training[0])[: len(read_shard(shard))]
    write_shard(out, np.resize(tokens, len(read_shard(shard))))
