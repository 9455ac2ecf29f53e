"""The site in a headless Chromium: loads, links, sorting, charts, themes, width of a phone. Skips where there is none.

References: Python's sort, record.json and metrics.jsonl on scales read from the ticks, WCAG's contrast formula.
`apt-get install chromium` has a browser on Debian; .ci/run does it.
"""

import functools
import http.server
import json
import math
import re
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from tests.support.browser import PATIENCE, WIDTHS, browser, check_width, tab  # noqa: F401
from tests.support.own_cache import own_cache  # noqa: F401
from tests.support.site_records import build_site, family

pytestmark = pytest.mark.browser
PAGES = (
    "index.html",
    "pocket/0001_baseline.html",
    "pocket/0002_wider.html",
    "pocket/0003_adapts.html",
    "pocket/0004_hostile.html",
    "open/0001_odd.html",
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """{"file", "http"}: where the site lies as a folder, and below a path of a server on loopback."""
    root = family(tmp_path_factory.mktemp("served"))
    folder = root / "some/where"
    folder.mkdir(parents=True)
    build_site(root, folder / "site")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield {"file": (folder / "site").as_uri(), "http": f"http://127.0.0.1:{server.server_port}/some/where/site"}
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def root(bases) -> Path:
    return Path(unquote(urlsplit(bases["file"]).path)).parents[2]


@pytest.mark.parametrize("kind", ["file", "http"])
def test_pages_load_alone(bases, tab, kind):
    urls = [f"{bases[kind]}/{name}" for name in PAGES]
    page = tab(urls[0])
    for url in urls:
        page.goto(url)
        assert page.evaluate("window.hacked") is None and page.locator("[onerror], [onclick], img").count() == 0
        assert page.evaluate("document.scripts.length") == 1
    assert set(tab.asked) == set(urls)  # nothing but the pages themselves


def test_the_policy_stops_what_would_slip_through(bases, browser):
    """The reverse of the test above: a picture, a style and a handler put into the page by hand do nothing."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"{bases['http']}/index.html")
    blocked = page.evaluate("""() => new Promise((resolve) => {
        const found = [];
        addEventListener("securitypolicyviolation", (event) => {
            found.push(event.effectiveDirective);
            if (found.length === 3) resolve(found.sort());
        });
        document.body.insertAdjacentHTML("beforeend",
            "<img src='http://127.0.0.1:9/p.png'><p style='color: red'></p><b onclick='window.hacked = 1'>x</b>");
        document.body.lastChild.click();
    })""")
    hacked = page.evaluate("window.hacked")
    context.close()
    assert (blocked, hacked) == (["img-src", "script-src-attr", "style-src-attr"], None)


@pytest.mark.parametrize("kind", ["file", "http"])
def test_every_link_leads_somewhere(bases, root, tab, kind):
    page, anchors, targets = tab(f"{bases[kind]}/index.html"), {}, set()
    for name in PAGES:
        url = f"{bases[kind]}/{name}"
        page.goto(url)
        anchors[url] = set(page.eval_on_selector_all("[id]", "found => found.map(e => e.id)"))
        targets |= set(
            page.eval_on_selector_all(
                "a[href]", "found => found.map(e => new URL(e.getAttribute('href'), document.baseURI).href)"
            )
        )
    inside = {target for target in targets if target.startswith(f"{bases[kind]}/")}
    assert targets - inside == {"https://example.org/paper"} and len(inside) > 20
    for target in inside:
        path, _, fragment = target.partition("#")
        file = root / "some/where/site" / unquote(path.removeprefix(f"{bases[kind]}/"))
        assert file.is_file(), target
        assert not fragment or fragment in anchors[path], target
    assert set(anchors) <= {target.partition("#")[0] for target in inside}  # every page is linked


def records(root: Path, track: str) -> dict[str, dict]:
    return {
        f"{track}/{path.parent.name}": json.loads(path.read_text())
        for path in sorted(root.glob(f"records/{track}/*/record.json"))
    }


def test_sorting_is_pythons(bases, root, tab):
    page, found = tab(f"{bases['file']}/index.html"), records(root, "pocket")
    ranked = sorted(found, key=lambda name: found[name]["bpb_mean"])
    keys = {
        "rank": ranked.index,
        "record": lambda name: Path(name).name,
        "bpb": lambda name: found[name]["bpb_mean"],
        "scope": lambda name: found[name]["scope"],
        "bytes": lambda name: found[name]["artifact"]["bytes"],
        "audited": lambda name: 0,
        "reproduced": lambda name: 0,
        "p": lambda name: 0,  # 0002 alone has one: see below
        "speed": lambda name: 0,
        "date": lambda name: found[name]["date"],
    }
    table = page.locator("#pocket table")

    def shown() -> list[str]:
        return table.locator("tbody tr").evaluate_all("rows => rows.map(row => row.dataset.record)")

    assert shown() == ranked and table.locator("th").all_inner_texts() == list(keys)
    for place, (name, key) in enumerate(keys.items()):
        head = table.locator("th").nth(place)
        up_first = head.get_attribute("aria-sort") is None
        for reverse in (not up_first, up_first):
            head.get_by_role("button").focus()
            page.keyboard.press("Enter" if reverse else "Space")
            expected = sorted(ranked, key=key, reverse=reverse)
            if name == "p":  # rows without a value stay last
                expected = sorted(ranked, key=lambda other: other != "pocket/0002_wider")
            assert shown() == expected, (name, reverse)
            states = table.locator("th").evaluate_all("heads => heads.map(head => head.getAttribute('aria-sort'))")
            assert [state for state in states if state] == ["descending" if reverse else "ascending"]
            assert head.get_attribute("aria-sort") is not None
    page.goto(f"{bases['file']}/pocket/0001_baseline.html")
    seeds = page.locator("table").first
    seeds.get_by_role("button", name="tokens").click()  # 10,276,864 is above 9,564,160, but its text is below
    numbers = [int(text.replace(",", "")) for text in seeds.locator("tbody td:nth-child(6)").all_inner_texts()]
    assert numbers == [9564160, 9920512, 10276864]


def test_the_filter_shows_what_holds_all_that_is_asked(bases, root, tab):
    page = tab(f"{bases['file']}/index.html")
    everything = {*records(root, "pocket"), *records(root, "open")}

    def shown() -> set[str]:
        return set(page.locator("table.board tbody tr:visible").evaluate_all("rows => rows.map(r => r.dataset.record)"))

    search, (scope, known) = page.get_by_role("searchbox"), page.locator("#filter select").all()
    assert shown() == everything and page.locator("output").inner_text() == "5 of 5 records"
    search.fill("  ANN width ")
    assert shown() == {"pocket/0002_wider"} and page.locator("output").inner_text() == "1 of 5 records"
    search.fill("</script>")
    assert shown() == {"pocket/0004_hostile"}
    search.fill("")
    scope.select_option("stream")
    assert shown() == {"pocket/0003_adapts"}
    known.select_option("proven")
    assert shown() == set() and page.locator("output").inner_text() == "0 of 5 records"
    scope.select_option("")
    assert shown() == {"pocket/0002_wider"}
    known.select_option("")
    assert shown() == everything


def scale(chart, axis: str, value) -> np.poly1d:
    """From pixels to data, as a line through the ticks of an axis; `value` reads a tick's text."""
    boxes = chart.locator(f"text.{axis}.tick").evaluate_all(
        "found => found.map(e => { const b = e.getBoundingClientRect(); return [e.textContent, b.x + b.width / 2, "
        "b.y + b.height / 2]; })"
    )
    lines = chart.locator("path.mark" if axis == "x" else "path.grid").evaluate_all(
        "found => found.map(e => { const b = e.getBoundingClientRect(); return [b.x + b.width / 2, "
        "b.y + b.height / 2]; })"
    )
    places = [place[0 if axis == "x" else 1] for place in lines]
    values = [value(text) for text, _, _ in boxes]
    assert len(places) == len(values) >= 2
    line = np.poly1d(np.polyfit(places, values, 1))
    assert np.abs(line(places) - values).max() < 0.01 * abs(values[-1] - values[0])
    off = [box[1 if axis == "x" else 2] - place for box, place in zip(boxes, places)]
    assert np.abs(off).max() < 4  # each text at its own line
    return line


def of_bytes(text: str) -> float:
    return float(text.rstrip("kM")) * {"k": 1e3, "M": 1e6}.get(text[-1], 1)


def floor_of(chart) -> float:
    """What a chart says its log scale of bpb starts from."""
    return float(re.search(r"log scale above ([0-9.]+) ", chart.locator("figcaption").inner_text())[1])


@pytest.mark.parametrize("width", WIDTHS)
def test_points_of_the_charts_are_where_the_data_says(bases, root, tab, width):
    page, found = tab(f"{bases['file']}/index.html", width), records(root, "pocket")
    in_order, by_bytes = page.locator("#pocket figure.chart").all()
    order = sorted(found, key=lambda name: (found[name]["date"], name))
    frame = in_order.locator("path.base").bounding_box()
    left_of = scale(by_bytes, "x", lambda text: math.log(of_bytes(text) + 1))

    def x_in_order(left: float) -> float:
        return (left - frame["x"]) / frame["width"] * len(order) - 0.5

    def bytes_left(record: dict) -> float:
        return math.log(250_000 - record["artifact"]["bytes"] + 1)

    for chart, x, value in (
        (in_order, x_in_order, lambda record: order.index(f"pocket/{record['number']}_{record['slug']}")),
        (by_bytes, left_of, bytes_left),
    ):
        floor = floor_of(chart)
        y = scale(chart, "y", lambda text, floor=floor: math.log(float(text) - floor))
        points = chart.locator("a.point").evaluate_all("""found => found.map(e => {
            const m = e.querySelector(".dot").getScreenCTM(), bar = e.querySelector(".spread").getBoundingClientRect();
            return [e.dataset.record, m.e, m.f, bar.top, bar.bottom, e.getAttribute("class")]; })""")
        assert [name for name, *_ in points] == sorted(found, key=lambda name: found[name]["bpb_mean"])
        for name, left, top, bar_top, bar_bottom, scope in points:
            record, mean, sd = found[name], found[name]["bpb_mean"], found[name]["bpb_sd"] or 0
            assert abs(x(left) - value(record)) < abs(x(1) - x(0)), name  # within a pixel
            pixel = abs(y(1) - y(0))
            assert abs(y(top) - math.log(mean - floor)) < pixel
            assert abs(y(bar_top) - math.log(mean + sd - floor)) < 2 * pixel
            assert abs(y(bar_bottom) - math.log(mean - sd - floor)) < 2 * pixel
            assert scope == f"point {record['scope']}"
    days = in_order.locator("text.x.tick").all_text_contents()
    assert days == ["20 Nov", "22 Nov", "05 Dec"] and "2026" in in_order.locator("text.x.name").text_content()
    best = in_order.locator("path.best").get_attribute("d")
    assert len(re.findall("V", best)) == 2  # 0001, then 0002 and 0003 were the best so far; 0004 was not


def test_curves_follow_the_logs(bases, root, tab):
    page = tab(f"{bases['file']}/pocket/0001_baseline.html")
    loss, dev = page.locator("figure.chart").all()
    for chart, key, line in ((loss, "loss", "polyline.thin"), (dev, "dev_bpb", "polyline.line")):
        x, y = scale(chart, "x", float), scale(chart, "y", float)
        drawn = chart.locator(line).evaluate_all("""found => found.map(e => {
            const m = e.getScreenCTM();
            return [...e.points].map(p => { const q = p.matrixTransform(m); return [q.x, q.y]; }); })""")
        seeds = json.loads((root / "records/pocket/0001_baseline/record.json").read_text())["seeds"]
        assert len(drawn) == len(seeds) == 3
        for points, seed in zip(drawn, seeds):
            log = root / f"records/pocket/0001_baseline/logs/seed{seed['seed']}.metrics.jsonl"
            rows = [row for row in map(json.loads, log.read_text().splitlines()) if key in row]
            found = np.array([[x(left), y(top)] for left, top in points])
            assert np.abs(found[:, 0] - [row["elapsed"] for row in rows]).max() < 1.5
            assert np.abs(found[:, 1] - [row[key] for row in rows]).max() < 1.5 * abs(y(1) - y(0))
    assert "1.7073" in dev.inner_text() and "seed 172484047" in dev.inner_text()


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of `rgb(r, g, b)`."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_themes(bases, tab, scheme):
    page = tab(f"{bases['file']}/index.html", scheme=scheme)
    for name in ("index.html", "pocket/0002_wider.html"):
        page.goto(f"{bases['file']}/{name}")
        page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        pairs = page.evaluate("""() => {
            const behind = (e) => { for (; e; e = e.parentElement) {
                const colour = getComputedStyle(e).backgroundColor;
                if (colour !== "rgba(0, 0, 0, 0)") return colour; } };
            const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = new Set();
            for (let node; (node = walker.nextNode());) {
                const e = node.parentElement, style = getComputedStyle(e);
                if (node.data.trim() && e.getClientRects().length)
                    found.add(JSON.stringify([e instanceof SVGElement ? style.fill : style.color, behind(e)])); }
            return [...found].map(JSON.parse); }""")
        assert len(pairs) > 5
        for text, ground in pairs:
            low, high = sorted([luminance(text), luminance(ground)])
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, text, ground)
            assert (luminance(ground) < 0.2) == (scheme == "dark"), (name, text, ground)


def test_the_theme_is_remembered(bases, tab):
    page = tab(f"{bases['http']}/index.html", scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert luminance(page.evaluate(ground)) > 0.8
    page.get_by_role("button", name="Use the dark theme").click()
    assert luminance(page.evaluate(ground)) < 0.1
    page.goto(f"{bases['http']}/pocket/0001_baseline.html")
    assert luminance(page.evaluate(ground)) < 0.1
    page.get_by_role("button", name="Use the light theme").click()
    page.reload()
    assert luminance(page.evaluate(ground)) > 0.8


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_their_width_in_both_themes(bases, tab, width, scheme):
    """No page scrolls sideways, nor does its navigation, and text is large enough; `tab` sees messages and requests."""
    page = tab(f"{bases['file']}/index.html", width, scheme)
    urls = [f"{bases['file']}/{name}" for name in PAGES]
    for url in urls:
        page.goto(url)
        check_width(page, width)
    assert set(tab.asked) == set(urls)


def test_points_say_their_record(bases, tab):
    page = tab(f"{bases['file']}/index.html")
    point = page.locator("#pocket figure.chart").first.locator("a.point").first
    point.hover()
    tip = page.locator("#pocket .tip:visible")
    assert tip.inner_text().startswith("0003 Adapts: ")
    page.mouse.move(0, 0)
    assert page.locator(".tip:visible").count() == 0
    point.focus()
    assert tip.count() == 1
    point.press("Enter")
    page.wait_for_url("**/pocket/0003_adapts.html")
