"""A small sample of the scale tests, by bounds that depend on no clock: scripts parsed, scores read, bytes held.

Not covered: the large worlds, `python -m tests.scale`.
"""

import shutil
import tracemalloc

import pytest

from golf import schema
from tests.scale import worlds
from tests.support.own_cache import own_cache  # noqa: F401
from tools.claims import prove
from tools.data import dedup
from tools.data import text as text_files
from tools.records import leaderboard, lineage

pytestmark = pytest.mark.slow

RECORDS = 3  # and the one that they come from
BYTES_FOR_EACH = 8


@pytest.fixture
def counted(monkeypatch):
    """{"scripts": parsed, "sides": records whose scores were read, "validated": scores that took the validator}."""
    counts = {"scripts": 0, "sides": 0, "validated": 0}
    parse, read_arm, validator = lineage.parse, prove.read_arm, schema._validator

    def count(name, function):
        def counting(*arguments):
            counts[name] += name != "validated" or arguments[0] == "eval"
            return function(*arguments)

        return counting

    monkeypatch.setattr(lineage, "parse", count("scripts", parse))
    monkeypatch.setattr(prove, "read_arm", count("sides", read_arm))
    monkeypatch.setattr(schema, "_validator", count("validated", validator))
    return counts


def test_what_a_record_more_costs_does_not_depend_on_how_many_there_are(tmp_path, monkeypatch, capsys, counted):
    """Board, site and lineage read each score and parse each script and its parent's once, and never again."""
    worlds.records(tmp_path, RECORDS)
    monkeypatch.setattr(leaderboard, "ROOT", tmp_path)
    monkeypatch.setattr(lineage, "ROOT", tmp_path)
    last = sorted((tmp_path / "records/pocket").iterdir())[-1]
    shutil.move(last, tmp_path / "aside")

    def cost() -> dict[str, int]:
        counted.update(dict.fromkeys(counted, 0))
        assert (leaderboard.main(["--site"]), leaderboard.main([]), lineage.main([])) == (0, 0, 0), capsys.readouterr()
        return dict(counted)

    first = cost()
    assert first["scripts"] == 1 + 2 * (RECORDS - 1) and first["validated"] == 0
    assert cost() == {"scripts": 0, "sides": 0, "validated": 0}
    shutil.move(tmp_path / "aside", last)
    more = cost()
    assert more["scripts"] == 2 and more["sides"] <= 3 and more["validated"] == 0


def test_many_documents_take_a_few_bytes_for_each_byte_of_text(tmp_path):
    """Deduplication, splits and separation, beside the documents themselves. One document is large."""
    worlds.texts(tmp_path / "texts", 6000, 200_000)
    files, _ = text_files.files(tmp_path / "texts")
    documents = [document for file in files for document in text_files.read(file)]
    text_bytes = sum(map(dedup.raw_bytes, documents))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "BLOCK", 1 << 14)
        tracemalloc.start()
        kept, _ = dedup.deduplicate(documents)
        splits = dedup.split(kept, text_bytes // 20)
        separated, _ = dedup.separate(splits)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert sum(map(len, separated.values())) > 5900
    assert held < BYTES_FOR_EACH * text_bytes, held / text_bytes
