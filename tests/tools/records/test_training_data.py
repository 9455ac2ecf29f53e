"""What a script in a reproduction sees of its data set: all that it trains on, and nothing that it is scored on."""

import json

import numpy as np
import pytest

from golf.files import Failure
from golf.shards import read_shard, write_shard
from tests.support import small_record
from tools.records import training_data


@pytest.fixture
def data(tmp_path):
    """A data set whose splits have tokens of their own."""
    folder = tmp_path / "set"
    folder.mkdir()
    for place, split in enumerate(("train", "dev", "gate", "final"), start=1):
        write_shard(
            folder / f"{split}_000000.bin", np.full(50 + 100 * place, place * 100) + np.arange(50 + 100 * place) % 90
        )
        (folder / f"{split}_docs.jsonl").write_text(json.dumps({"text": f"text of {split}"}) + "\n")
    for name in ("manifest.json", "tokenizer.model"):
        (folder / name).write_text(name)
    return folder


def test_no_held_out_text_is_shown(data, tmp_path):
    place = tmp_path / "box/data/set"
    shown = training_data.show(data, place)
    assert sorted(path.name for path in place.iterdir()) == [
        "dev_000000.bin",
        "manifest.json",
        "tokenizer.model",
        "train_000000.bin",
    ]
    assert [path.name for path in shown] == ["manifest.json", "tokenizer.model", "train_000000.bin"]
    train, dev = read_shard(data / "train_000000.bin"), read_shard(place / "dev_000000.bin")
    assert len(dev) == 250 and set(dev.tolist()) <= set(train.tolist())
    assert (place / "train_000000.bin").read_bytes() == (data / "train_000000.bin").read_bytes()


def test_a_shard_that_is_none_is_named(data, tmp_path):
    (data / "dev_000000.bin").write_bytes(b"x")
    with pytest.raises(Failure, match="dev_000000.bin"):
        training_data.show(data, tmp_path / "place")


def test_the_links_of_the_stand_in_record(tmp_path):
    small_record.make(tmp_path)
    shown = training_data.show(tmp_path / "data/small", tmp_path / "place")
    assert [path.name for path in shown] == ["manifest.json", "train.bin"]
