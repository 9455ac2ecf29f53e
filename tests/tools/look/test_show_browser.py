"""The page of a run in a headless Chromium, light and dark, on a phone and on a desk. Skips where there is none.

References: the run's files on scales read from the ticks; the browser's own console and list of requests.
"""

import json

import pytest

from tests.support.browser import WIDTHS, browser, check_width, tab  # noqa: F401
from tests.support.shown_runs import OLD, RECORD, age, of_record
from tools.look import show

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """Addresses of the pages of a whole run beside a record, and of one that crashed."""
    root = tmp_path_factory.mktemp("shown")
    whole = of_record(RECORD, 1, root / "a_run_with_a_long_name_that_has_no_place_to_break_it_anywhere")
    crashed = of_record(RECORD, 2, root / "crashed", ("train.log", "metrics.jsonl"))
    age(crashed)
    found = {}
    for name, folder, more in (("whole", whole, ["--parent", str(OLD)]), ("crashed", crashed, [])):
        out, _ = show.make(show.parse([str(folder), "--out", str(root / f"{name}.html"), *more]))
        found[name] = out.as_uri()
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_pages_are_quiet_alone_and_as_wide_as_the_window(urls, tab, width, scheme):
    """`tab` fails on any message of the console."""
    page = tab(urls["whole"], width, scheme)
    for url in urls.values():
        page.goto(url)
        check_width(page, width)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")
    assert set(tab.asked) == set(urls.values())


def test_tensors_sort_and_curves_follow_the_log(urls, tab):
    page = tab(urls["whole"])
    table = page.get_by_role("region", name="Tensors").locator("table")
    table.get_by_role("button", name="bits per weight").click()
    shown = [float(text) for text in table.locator("tbody tr td:nth-child(5)").all_inner_texts()]
    assert shown == sorted(shown) and len(shown) > 10

    seed = json.loads((RECORD / "record.json").read_text())["seeds"][1]["seed"]
    rows = map(json.loads, (RECORD / f"logs/seed{seed}.metrics.jsonl").read_text().splitlines())
    points = [row for row in rows if row.get("dev_bpb") is not None]
    chart = page.locator("figure.chart", has_text="Dev estimate")
    drawn = chart.locator("polyline[data-run='this run']").evaluate("e => [...e.points].map(p => [p.x, p.y])")
    assert len(drawn) == len(points)
    (x0, y0), (x1, y1) = drawn[0], drawn[-1]
    for (x, y), row in zip(drawn, points):  # straight scales: shares of the way from the first point to the last
        share = (row["elapsed"] - points[0]["elapsed"]) / (points[-1]["elapsed"] - points[0]["elapsed"])
        assert x == pytest.approx(x0 + share * (x1 - x0), abs=0.05)
        share = (row["dev_bpb"] - points[0]["dev_bpb"]) / (points[-1]["dev_bpb"] - points[0]["dev_bpb"])
        assert y == pytest.approx(y0 + share * (y1 - y0), abs=0.05)
