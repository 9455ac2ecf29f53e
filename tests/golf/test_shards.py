"""The format of shards: against the training script's own reader, and what a damaged file is told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import train_gpt
from golf import shards
from golf.files import Failure


@given(tokens=st.lists(st.integers(0, 65535), max_size=50))
def test_what_is_written_is_read_back_and_is_the_fields_format(tokens, tmp_path_factory):
    path = tmp_path_factory.mktemp("shard") / "a.bin"
    shards.write_shard(path, np.array(tokens, dtype=np.uint16))
    assert shards.read_shard(path).tolist() == tokens
    data = path.read_bytes()
    assert len(data) == shards.shard_bytes(len(tokens))
    assert np.frombuffer(data[:12], "<i4").tolist() == [20240520, 1, len(tokens)] and not any(data[12:1024])
    assert np.frombuffer(data[1024:], "<u2").tolist() == tokens


def test_the_training_script_has_the_same_numbers():
    ours = (shards.MAGIC, shards.VERSION, shards.HEADER_BYTES, shards.BOS)
    assert ours == (train_gpt.SHARD_MAGIC, train_gpt.SHARD_VERSION, train_gpt.SHARD_HEADER_BYTES, train_gpt.BOS)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[:1000], "shorter than a shard's header"),
        (lambda data: b"\0" + data[1:], "not a token shard"),
        (lambda data: data[:-1], "its header says 3 tokens"),
        (lambda data: data + b"\0\0", "its header says 3 tokens"),
        (lambda data: data[:8] + b"\xff" * 4 + data[12:], "its header says -1 tokens"),
    ],
)
def test_a_damaged_shard_is_named_with_its_fault(damage, message, tmp_path):
    path = tmp_path / "a.bin"
    shards.write_shard(path, np.array([1, 2, 3], dtype=np.uint16))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Failure, match=f"a.bin: .*{message}"):
        shards.read_shard(path)


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(Failure, match="b.bin: cannot read it"):
        shards.read_shard(tmp_path / "b.bin")
