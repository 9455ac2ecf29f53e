"""A headless Chromium for tests of pages: fixtures to import, and what every page must keep. Skips where there is none.

`apt-get install chromium` has a browser on Debian; .ci/run does it.
"""

import shutil

import pytest

WIDTHS = (400, 1200)  # CSS pixels: a phone, a desk
PATIENCE = 300_000  # milliseconds: a machine that is busy is not a page that is broken
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (tests/requirements.txt)")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs a browser, one of {', '.join(NAMES)} (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, timeout=PATIENCE)
        yield running
        running.close()


@pytest.fixture
def tab(browser):
    """Opens a page: open(url, width=1280, scheme="light"). Fails afterwards on any error or request to elsewhere."""
    contexts, problems, asked = [], [], []

    def open_page(url: str, width: int = 1280, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(f"{page.url}: console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
        page.on("dialog", lambda dialog: problems.append(f"{page.url}: dialog") or dialog.dismiss())
        page.on("request", lambda request: asked.append(request.url))
        page.on("requestfailed", lambda request: problems.append(f"{page.url}: failed: {request.url}"))
        page.goto(url)
        return page

    open_page.asked = asked
    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def check_width(page, width: int) -> None:
    """A page as wide as the window, its navigation in sight, and on a phone text that can be read."""
    page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    assert page.evaluate("document.scrollingElement.scrollWidth") == width, page.url
    links = page.locator("header.bar a, header.bar button").evaluate_all(
        "found => found.map(e => { const b = e.getBoundingClientRect(); return [b.left, b.right, b.top]; })"
    )
    assert all(0 <= left < right <= width and top >= 0 for left, right, top in links), page.url
    assert page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('header nav'))") <= 0, page.url
    if width < 700:
        sizes = page.locator("svg text, td, th, p, li, dd, dt").evaluate_all(
            "found => found.filter(e => e.getClientRects().length).map(e => e.ownerSVGElement ? "
            "parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a : "
            "parseFloat(getComputedStyle(e).fontSize))"
        )
        assert min(sizes) >= 11, page.url  # CSS pixels
