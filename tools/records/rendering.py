"""Makes pages from templates: the site's, and that of one run (tools/look/).

Every page is one file with its style and its script inside and asks for nothing else. Text of records and runs is
escaped by jinja2, and a Content-Security-Policy that knows the hashes of our style and script would stop what slipped
through.

Not covered: what a page shows (tools/records/pages.py, tools/look/page.py). tools/records/site/ has the templates.
"""

import base64
import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

from golf.files import Failure
from golf.foreign import terminal
from tools.records import charts

TEMPLATES = Path(__file__).resolve().parent / "site"


def readme_html(text: str) -> str:
    """A record's README as HTML that can neither run nor fetch anything, with its headings two levels down.

    Raw HTML is text, pictures are their description, and only links to other sites stay links: a record's own files
    are not where its README thinks they are.
    """
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens, local = markdown.parse(text), False
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
        if "style" in token.attrs:  # of a cell that is aligned; the policy of the page forbids style attributes
            token.attrs = {"class": "number"} if "right" in str(token.attrs["style"]) else {}
        for child in token.children or []:
            if child.type == "image":
                child.type = "text"
            if child.type == "link_open":
                local = not str(child.attrs["href"]).startswith(("https://", "http://"))
                child.attrs = child.attrs | {"rel": "noopener noreferrer"}
            if child.type in ("link_open", "link_close") and local:
                child.tag, child.attrs = "span", {}
    return markdown.renderer.render(tokens, markdown.options, {})


def environment(generator: str, *folders: Path):
    """jinja2's, with every value escaped, and the style and script that each page carries.

    generator: the command that writes the page, which is named in it. folders: of templates beside the site's."""
    import jinja2
    from markupsafe import Markup

    def inside(name: str) -> tuple[Markup, str]:
        text = (TEMPLATES / name).read_text(encoding="utf-8")
        return Markup(text), "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader([TEMPLATES, *folders]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    env.globals |= {"generator": generator, "plot": charts.PLOT, "size": (charts.WIDTH, charts.HEIGHT)}
    for key, name in (("style", "style.css"), ("script", "site.js")):
        env.globals[key], env.globals[f"{key}_hash"] = inside(name)
    env.filters |= {"html": Markup, "signed": lambda value: f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")}
    return env


@contextlib.contextmanager
def blame(folder: Path) -> Iterator[None]:
    """Turns what goes wrong inside, on files that are JSON but hold something else, into a Failure that names their
    folder."""
    from jinja2 import UndefinedError

    unexpected = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, UndefinedError, ValueError)
    try:
        yield
    except unexpected as error:
        raise Failure(f"{folder}: a log or score is not what the kit writes: {terminal(error)}") from None
