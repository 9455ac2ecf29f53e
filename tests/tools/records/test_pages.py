"""The pages and their charts without a browser: what they say and refuse. test_pages_browser.py has one.

References: record.json and the logs, Python's HTML parser, the hostile text itself.
"""

import base64
import hashlib
import html.parser
import json
import math
import os
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import ROOT
from tests.support.additions import example
from tests.support.own_cache import own_cache  # noqa: F401
from tests.support.site_records import BASELINE, HOSTILE, add, build_site, family
from tools.records import additions, charts, leaderboard, lineage, pages, reading, rendering

pytestmark = pytest.mark.slow

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(html.parser.HTMLParser):
    """Elements as (tag, attributes, text inside them), in order; fails on tags that do not nest."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements, self.open = [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [], f"{path}: not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute twice: {attributes}"
        self.elements.append([tag, dict(attributes), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag, **attributes) -> list[str]:
        """Texts of these elements, white space joined."""
        return [
            " ".join(text.split())
            for name, found, text in self.elements
            if name == tag and attributes.items() <= found.items()
        ]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    root = family(tmp_path_factory.mktemp("family"))
    assert build_site(root, root / "site") == 6
    return root / "site"


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(leaderboard, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("<!-- leaderboard -->\n<!-- /leaderboard -->\n")
    return tmp_path


def test_every_page_is_whole_and_carries_no_more_than_its_own_code(site):
    found = sorted(site.rglob("*.html"))
    assert len(found) == 6
    for path in found:
        page = Page(path)
        tags = [tag for tag, _, _ in page.elements]
        assert (tags.count("script"), tags.count("style"), tags.count("title")) == (1, 1, 1)
        assert not {"img", "iframe", "object", "embed", "form", "base"} & set(tags)
        for tag, attributes, _ in page.elements:
            assert not [key for key in attributes if key.startswith("on") or key in ("src", "style", "srcset")]
            scheme = re.match("[a-z]+:|", attributes.get("href", ""))[0]
            assert scheme in ("", "http:", "https:") or (tag, scheme) == ("link", "data:")
        policy = next(a["content"] for _, a, _ in page.elements if a.get("http-equiv") == "Content-Security-Policy")
        for tag in ("script", "style"):
            inside = re.search(f"<{tag}>(.*?)</{tag}>", page.source, re.DOTALL)[1]
            digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
        assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy


def test_hostile_text_is_shown_and_not_obeyed(site):
    index, page = Page(site / "index.html"), Page(site / "pocket/0004_hostile.html")
    shown = " ".join(HOSTILE.split())
    assert page.all("h1") == [f"0004 {shown}"] and page.all("title")[0].startswith(f"0004 {shown}")
    assert any(shown in text for text in index.all("a"))
    text = " ".join(page.elements[0][2].split())
    where = {
        "idea": page.all("p", **{"class": "lead"}),
        "author": page.all("dd"),
        "slice": page.all("th"),
        "audit": page.all("td"),
        "layer": page.all("th"),
        "config": page.all("dd"),
        "diff": page.all("pre"),
    }
    for name, texts in where.items():
        assert any(shown in found for found in texts), name
    assert "<script>window.hacked = 'readme'</script>" in text and "tracker.invalid" not in page.source
    assert "javascript:" in text and "{{ 7 * 7 }}" in text
    assert not [attributes for tag, attributes, _ in page.elements if "javascript:" in attributes.get("href", "")]


def test_numbers_of_the_baseline_are_those_of_its_record(tmp_path):
    add(tmp_path, "pocket", "0001", "baseline")
    build_site(tmp_path, tmp_path / "site")
    page = Page(tmp_path / "site/pocket/0001_baseline.html")
    data = json.loads((BASELINE / "record.json").read_text())
    assert page.all("dd", **{"class": "big"}) == [f"{data['bpb_mean']:.4f} ± {data['bpb_sd']:.4f}"]
    text = " ".join(page.elements[0][2].split())
    low, high = re.search(r"interval of the mean ([\d.]+) to ([\d.]+)", (BASELINE / "README.md").read_text()).groups()
    assert f"95% interval of the mean: {low} to {high}" in text
    values = [attributes["data-value"] for _, attributes, _ in page.elements if "data-value" in attributes][:18]
    assert [float(value) for value in values] == [value for row in data["seeds"] for value in row.values()]
    for part in (data["artifact"]["sha256"], data["script_sha256"], data["seed_commit"], data["data"]["docs_sha256"]):
        assert part in text
    config = dict(zip(page.all("dt"), page.all("dd")))
    assert {key: config[key] for key in data["config"]} == {key: str(value) for key, value in data["config"].items()}
    assert config["torch"] == data["environment"]["torch"]
    score = json.loads((BASELINE / f"eval/seed{data['artifact']['seed']}.json").read_text())
    scores = [json.loads(path.read_text()) for path in sorted((BASELINE / "eval").iterdir())]
    for name, part in score["slices"].items():
        assert name in page.all("th") and f"{part['documents']:,}" in page.all("td")
        mean = sum(other["slices"][name]["bpb"] for other in scores) / 3
        assert f"{mean:.4f}" in page.all("td")
    table = struct.unpack_from("<4sI4sI4sI4sI", (BASELINE / data["artifact"]["file"]).read_bytes(), 5)  # docs/format.md
    sizes = [*table[1::2], 45]
    assert {f"{size:,}" for size in (*sizes, data["artifact"]["bytes"])} <= set(page.all("td"))
    assert sum(sizes) == data["artifact"]["bytes"]


def test_what_a_record_lacks_is_said(site):
    page = " ".join(Page(site / "open/0001_odd.html").elements[0][2].split())
    for line in (
        "No logs in this record",
        "No scores by slice in this record",
        "No scores in this record",
        "The artifact is not in the repository: 16,000,000 bytes",
        "not scored on the same documents, or a",
        "The same script as its parent's",
    ):
        assert line in page
    assert "No audits in this record's scores" in Page(site / "pocket/0001_baseline.html").elements[0][2]
    assert "none: the first of its line" in Page(site / "pocket/0001_baseline.html").elements[0][2]


def test_change_against_the_parent_is_that_of_lineage(site):
    record = lineage.find(lineage.read_tree(site.parent), "0002_wider")
    claim = lineage.gain(record)
    assert claim["gain"] > 0.03
    signed = "{:+.4f}".format
    for name in ("index.html", "pocket/0002_wider.html"):
        text = " ".join(Page(site / name).elements[0][2].split()).replace("\N{MINUS SIGN}", "-")
        low, high = (signed(-claim["interval"][i]) for i in (1, 0))
        assert re.search(rf"{re.escape(signed(-claim['gain']))}.{{0,20}}{re.escape(low)} to {re.escape(high)}", text)
        assert "1 changed, 2 new" in text
    assert "1 of 35 fields differ from the parent" in text and "96" in text and "was 64" in text
    diff = next(
        attributes
        for tag, attributes, _ in Page(site / "pocket/0002_wider.html").elements
        if tag == "details" and "open" in attributes
    )
    assert diff is not None


def test_slices_of_every_kind_have_their_table(site):
    page = Page(site / "pocket/0002_wider.html")
    tables = [text.split("bpb")[0] for text in page.all("table", **{"class": "numbers slices"})]
    assert tables == ["source", "length", "non-ascii"]
    assert {"news", "0-255", "5%+"} <= set(page.all("th"))


def test_audits_name_the_verdict_of_each_seed(site):
    page = Page(site / "pocket/0002_wider.html")
    assert page.all("td", **{"class": "verdicts"}) == ["passpasspass", "passpassnote", "passpassnot made"]
    assert "2 of 3 scores" in page.all("span", **{"class": "verdict bad"})


def test_the_same_records_give_the_same_bytes_and_old_pages_go(tmp_path):
    add(tmp_path, "pocket", "0001", "baseline")
    second = add(tmp_path, "pocket", "0002", "gone", parent="0001_baseline")
    out = tmp_path / "site"
    build_site(tmp_path, out)
    assert (out / "pocket/0002_gone.html").exists()
    shutil.rmtree(second)
    build_site(tmp_path, out)
    files = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    build_site(tmp_path, out)
    assert files == {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert not (out / "pocket/0002_gone.html").exists() and sorted(os.listdir(tmp_path)) == ["records", "site"]
    assert files[Path("pocket/0001_baseline/train_gpt.py")] == (BASELINE / "train_gpt.py").read_bytes()


def test_command_writes_table_and_site(root, capsys):
    add(root, "pocket", "0001", "baseline")
    assert leaderboard.main(["--site", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == {"format": 1, "records": 1, "stale": True, "problems": [], "written": True, "pages": 2}
    assert (root / "site/index.html").exists() and "0001_baseline" in (root / "README.md").read_text()


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda root, r: (r / "logs/passwd.log").symlink_to("/etc/passwd"), "passwd.log: a symbolic link"),
        (lambda root, r: edit(r / "record.json", bpb_mean=math.nan), "bpb_mean: nan is not a finite number"),
        (lambda root, r: edit(r / "record.json", bpb_mean=1e300), "is greater than the maximum of 1000"),
        (lambda root, r: edit(r / "record.json", date="2026-02-30"), "date: day"),
        (lambda root, r: edit(r / "record.json", authors=[]), "authors: "),
        (lambda root, r: edit(r / "record.json", artifact={"file": "../../x", "bytes": 1}), "artifact"),
        (lambda root, r: (r / "baseline.golf").write_bytes(b"GOLF"), "baseline.golf: file cut short"),
        (
            lambda root, r: (r / "eval/seed482590693.json").write_text("{}"),
            "eval/seed482590693.json: 'artifact' is a required",
        ),
        (lambda root, r: edit(r / "eval/seed482590693.json", slices=[1]), "not what the kit writes"),
        (
            lambda root, r: (r / "logs/seed482590693.metrics.jsonl").write_text(
                '{"step": 1, "elapsed": "x", "loss": 1}\n'
            ),
            "elapsed: x is no number of ordinary size",
        ),
        (
            lambda root, r: edit(r / "eval/seed482590693.json", audits=[{"audit": "blind", "verdict": "pass"}]),
            "'detail'",
        ),
        (lambda root, r: (r / "README.md").write_bytes(b"\xff"), "README.md: not UTF-8"),
    ],
)
def test_a_broken_record_is_one_line_and_the_others_have_their_pages(root, capsys, damage, message):
    record = add(root, "pocket", "0001", "baseline")
    add(root, "pocket", "0002", "sound", 0.99)
    damage(root, record)
    assert leaderboard.main(["--site"]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert Page(root / "site/pocket/0002_sound.html").all("h1")
    index = Page(root / "site/index.html")
    assert "pocket/0002_sound.html" in [attributes.get("href") for _, attributes, _ in index.elements]
    said = [Page(path).source for path in (root / "site").rglob("*.html") if path.stem != "0002_sound"]
    assert any(html.escape(message.split(": ")[-1], quote=False)[:20] in text.replace("&#39;", "'") for text in said)
    assert not any(path.is_symlink() for path in (root / "site").rglob("*"))


def test_a_page_is_made_again_only_if_something_in_it_changed(root, monkeypatch):
    first = add(root, "pocket", "0001", "baseline")
    add(root, "pocket", "0002", "second", 0.99, scope="none")
    add(root, "pocket", "0003", "third", 0.98, scope="stream")
    made = []
    record_page = pages.record_page
    monkeypatch.setattr(
        pages, "record_page", lambda record, *rest: made.append(record.name) or record_page(record, *rest)
    )
    build_site(root, root / "site")
    before = {path: path.read_bytes() for path in (root / "site").rglob("*") if path.is_file()}
    assert sorted(made) == ["pocket/0001_baseline", "pocket/0002_second", "pocket/0003_third"]
    build_site(root, root / "site")
    assert len(made) == 3
    assert before == {path: path.read_bytes() for path in (root / "site").rglob("*") if path.is_file()}

    (first / "README.md").write_text("# Other words\n")
    build_site(root, root / "site")
    assert made[3:] == ["pocket/0001_baseline"]
    assert "Other words" in (root / "site/pocket/0001_baseline.html").read_text()
    (root / "site/pocket/0002_second.html").write_text("what somebody wrote")
    build_site(root, root / "site")
    assert made[4:] == ["pocket/0002_second"]
    (root / "site/pages.json").write_text("[")
    build_site(root, root / "site")
    assert len(made) == 8


def test_a_folder_of_somebody_elses_is_left_alone(root, capsys):
    add(root, "pocket", "0001", "baseline")
    (root / "site").mkdir()
    (root / "site/mine.txt").write_text("x")
    before = sorted(root.rglob("*"))
    assert leaderboard.main(["--site"]) == 1
    error = capsys.readouterr().err
    assert "did not write: move them" in error and error.count("\n") == 1
    assert before == sorted(root.rglob("*"))


@pytest.mark.parametrize("name", ["CNAME", "pocket/0001_baseline/notes.txt"])
def test_what_somebody_put_among_the_pages_stays(root, capsys, name):
    add(root, "pocket", "0001", "baseline")
    assert leaderboard.main(["--site"]) == 0
    (root / "site" / name).write_text("x")
    before = {path: path.read_bytes() for path in (root / "site").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert leaderboard.main(["--site"]) == 1
    assert capsys.readouterr().err.endswith(
        f"site holds {name}, which is no part of the pages that would be replaced: move it away\n"
    )
    assert before == {path: path.read_bytes() for path in (root / "site").rglob("*") if path.is_file()}
    assert not list(root.glob(".site*"))


def test_every_file_of_a_record_is_linked_and_is_a_copy(root):
    folder = add(root, "pocket", "0001", "baseline")
    path = additions.write(folder, example(folder, seed=482590693))
    assert leaderboard.main(["--site"]) == 0
    page = Page(root / "site/pocket/0001_baseline.html")
    linked = {attributes["href"] for tag, attributes, _ in page.elements if tag == "a" and "href" in attributes}
    shown = [file for file in folder.rglob("*") if file.is_file() and file.name not in ("README.md", "curves.png")]
    for file in shown:
        name = file.relative_to(folder).as_posix()
        if file.stat().st_size:
            assert f"../pocket/0001_baseline/{name}" in linked, name
            assert (root / "site/pocket/0001_baseline" / name).read_bytes() == file.read_bytes()
    assert f"../pocket/0001_baseline/additions/{path.name}" in linked
    assert "trained again" in " ".join(page.elements[0][2].split())


def test_the_index_says_what_is_known_and_how_to_submit(site):
    index = Page(site / "index.html")
    rows = {
        attributes["data-record"]: attributes
        for tag, attributes, _ in index.elements
        if tag == "tr" and "data-record" in attributes
    }
    assert rows["pocket/0003_adapts"]["data-marks"] == "stream"
    assert {"document", "proven"} <= set(rows["pocket/0002_wider"]["data-marks"].split())
    text = " ".join(index.elements[0][2].split())
    for words in (
        "How to submit",
        "docs/guide.md",
        "Version 2 of the rules No record yet.",
        "Ann, Bob",
        "over 0001 (paired",
    ):
        assert words in text
    assert "Under the wall clock, version 1 of the rules" in text


@pytest.mark.parametrize(
    "source, found",
    [
        ("# Top\n\nwords", "<h3>Top</h3>\n<p>words</p>\n"),
        ("a <b onclick=x()>b</b>", "<p>a &lt;b onclick=x()&gt;b&lt;/b&gt;</p>\n"),
        ("<script>x</script>", "<p>&lt;script&gt;x&lt;/script&gt;</p>\n"),
        ("[x](https://a.org/b)", '<p><a href="https://a.org/b" rel="noopener noreferrer">x</a></p>\n'),
        ("[x](logs/a.log) [y](//a.org) [z](file.md#x)", "<p><span>x</span> <span>y</span> <span>z</span></p>\n"),
        ("![loss](https://a.org/p.png)", "<p>loss</p>\n"),
        ("[x](javascript:x()) <javascript:x()>", "<p>[x](javascript:x()) &lt;javascript:x()&gt;</p>\n"),
        ("```\n<i>\n```", "<pre><code>&lt;i&gt;\n</code></pre>\n"),
        (
            "|a|\n|--:|\n|1|",
            '<table>\n<thead>\n<tr>\n<th class="number">a</th>\n</tr>\n</thead>\n<tbody>\n<tr>\n'
            '<td class="number">1</td>\n</tr>\n</tbody>\n</table>\n',
        ),
    ],
)
def test_readme_can_neither_run_nor_fetch(source, found):
    assert rendering.readme_html(source) == found


def test_each_record_stands_below_its_parent():
    """Every record once; before it in its line stands its parent, or its line starts beside what its parent is."""
    parents = {"a": None, "b": "a", "c": "a", "d": "b", "e": "c", "f": "c", "g": None}
    bpb = dict(a=9, b=5, c=6, d=4, e=3, f=5, g=1)
    records = {name: lineage.Record(name, Path(), {"bpb_mean": bpb[name]}) for name in parents}
    for name, parent in parents.items():
        if parent:
            records[name].parent = records[parent]
            records[parent].children.append(records[name])
    seen = {}

    def walk(line, above):
        for name, sides in line:
            seen[name] = above
            for side in sides:
                walk(side, name)
            above = name

    tree = pages.branches(list(records.values()))
    for line in tree:
        walk(line, None)
    assert seen == parents
    assert [[name for name, _ in line] for line in tree] == [["a", "c", "e"], ["g"]]  # e is the best that comes of a


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e8), count=st.integers(2, 8))
def test_ticks_are_round_and_enough(low, span, count):
    step = charts.round_step(span, count)
    mantissa = float(f"{step:.3e}".split("e")[0])
    assert mantissa in (1, 2, 5)
    ticks = charts.linear_ticks(low, low + span, step)
    assert count - 1 <= len(ticks) - 1 <= 2.5 * count + 1 or len(ticks) == count
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    assert all(abs(tick / step - round(tick / step)) < 1e-6 for tick in ticks)


def on_log_scale(value: float, low: float, high: float, floor: float, start: float, end: float) -> float:
    """Where a value lies by the definition: equal ratios of what is above the floor are equally far apart."""
    steps = math.log2((value - floor) / (low - floor)) / math.log2((high - floor) / (low - floor))
    return start * (1 - steps) + end * steps


@given(low=st.floats(0.5, 9), span=st.floats(0, 5), part=st.floats(0, 1))
def test_bpb_lies_on_a_log_scale_above_the_floor_that_the_axis_names(low, span, part):
    axis = charts.bpb_axis(low, low + span)
    floor = float(re.fullmatch(r"bits per byte, log scale above (-?[0-9.]+) \(lower is better\)", axis.label)[1])
    assert axis.floor == pytest.approx(floor, abs=1e-9) and floor < low
    value, (_, top, _, bottom) = low + part * span, charts.PLOT
    assert abs(axis.at(value) - on_log_scale(value, axis.low, axis.high, floor, bottom, top)) < 0.02
    assert top < axis.at(low + span) <= axis.at(low) < bottom

    texts = [text for _, text in axis.ticks]
    assert 4 <= len(texts) == len(set(texts)) <= 9
    for value, text in axis.ticks:
        assert float(text) == pytest.approx(value, abs=1e-9) and top - 0.01 <= axis.at(value) <= bottom + 0.01
    places = [axis.at(value) for value, _ in axis.ticks]
    assert all(above <= below - charts.TICK_HEIGHT + 0.01 for below, above in zip(places, places[1:]))


@given(st.lists(st.integers(0, 16_000_000), min_size=1, max_size=20))
def test_bytes_left_lie_on_a_log_scale(left):
    axis = charts.left_axis(left)
    for value in left:
        expected = on_log_scale(value, axis.low, axis.high, -1, charts.PLOT[0], charts.PLOT[2])
        assert abs(axis.at(value) - expected) < 0.02
        assert charts.PLOT[0] < axis.at(value) < charts.PLOT[2]
    assert 2 <= len(axis.ticks) == len({text for _, text in axis.ticks}) <= charts.MOST_TICKS + 3
    unit = {"k": 1e3, "M": 1e6}
    for value, text in axis.ticks:
        assert float(text.rstrip("kM")) * unit.get(text[-1], 1) == pytest.approx(value, rel=1e-9)
        assert axis.low <= value <= axis.high


@given(low=st.floats(1e-3, 1e9), ratio=st.floats(5.2, 1e9))
def test_ticks_of_a_log_scale_are_round_and_enough(low, ratio):
    ticks = charts.log_ticks(low, low * ratio)
    assert 2 < len(ticks) <= 10 and ticks == sorted(set(ticks))
    assert all(low <= tick <= low * ratio and f"{tick:.6e}"[0] in "12357" for tick in ticks)
    assert all(f"{tick:.6e}"[1:].startswith(".000000e") for tick in ticks)


@given(st.lists(st.dates(), min_size=1, max_size=300).map(sorted))
def test_records_stand_in_their_order_and_marks_are_first_of_a_day(days):
    axis, (left, _, right, _) = charts.order_axis(days), charts.PLOT
    for place in range(len(days)):
        assert abs(axis.at(place) - (left + (right - left) * (place + 0.5) / len(days))) < 0.01
    assert axis.ticks[0][0] == 0
    for (before, _), (place, text) in zip(axis.ticks, axis.ticks[1:]):
        assert days[place] != days[place - 1] and axis.at(place) - axis.at(before) >= charts.TICK_WIDTH
        assert text == days[place].strftime("%d %b" if days[0].year == days[-1].year else "%b %Y")


def test_records_after_the_first_do_not_lie_on_one_line():
    """Of the first four records: the three after 0001 differ less and less, and fill the cap alike."""
    found = reading.read_records(ROOT)
    names = ("0001_baseline", "0002_trellis_coded", "0003_stack_and_scorer", "0004_case_operators")
    records = [found[ROOT / "records/pocket" / name] | {"name": name} for name in names]
    for chart in (charts.in_order("pocket", records), charts.by_bytes("pocket", records, 250_000)):
        x, y = np.array([(point["x"], point["y"]) for point in chart["points"][1:]]).T
        assert min(abs(np.diff(x))) > 10 and min(abs(np.diff(y))) > 15, chart["title"]
        assert all(point["label"] for point in chart["points"])
    points = np.array([(point["x"], point["y"]) for point in charts.in_order("pocket", records)["points"][1:]])
    off_the_line = np.linalg.svd(points - points.mean(0))[1][
        1
    ]  # root of the sum of squared distances from the best line
    assert off_the_line > 20


@given(st.lists(st.tuples(st.floats(64, 542), st.floats(14, 276)), max_size=40))
def test_labels_cover_neither_points_nor_each_other(places):
    points = [{"x": x, "y": y} for x, y in places]
    charts.labels(points, lambda point: "0001")
    boxes = []
    for point in points:
        if point["label"]:
            x, y, anchor, _ = point["label"]
            left = x - {"start": 0, "middle": 16, "end": 32}[anchor]
            boxes.append((left, y - 10, left + 32, y))
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert charts.PLOT[0] < left and right < charts.PLOT[2] and charts.PLOT[1] < top and bottom < charts.PLOT[3]
        assert not any(left < p["x"] < right and top < p["y"] < bottom for p in points)
        assert not any(left < r and o < right and top < b and t < bottom for o, t, r, b in boxes[:number])


@given(st.lists(st.integers(1, 16_000_000), min_size=1, max_size=20), st.sampled_from([None, 250_000, 16_000_000]))
def test_bytes_axis_shows_every_size_and_the_cap(sizes, cap):
    axis = charts.bytes_axis(sizes, cap)
    for value in sizes + [cap] * (cap is not None):
        assert charts.PLOT[0] <= axis.at(value) <= charts.PLOT[2]
    assert len({text for _, text in axis.ticks}) == len(axis.ticks) >= 2 or axis.log
    unit = {"k": 1e3, "M": 1e6}
    for value, text in axis.ticks:
        assert float(text.rstrip("kM")) * unit.get(text[-1], 1) == pytest.approx(value, rel=1e-9)
