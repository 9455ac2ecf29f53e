"""The file under the experiment log: runs/ledger.jsonl, a JSON object per line, each with the hash of the line before.

A row is {"n", "time", "kind", "run", ..., "previous", "hash"}; hash = SHA-256 of the row's canonical JSON without
"hash", previous = the hash of row n - 1 ("" for row 1). Writers take turns by a lock on the file. runs/ledger.sqlite is
an index that can be made again from the file; it also remembers the rows it saw, so that a cut end is noticed.

tools/runs/rows.py says what a row may hold. A row that does not is never appended; one that lies in the file all the
same (an older kit took it, or it was written by hand) is part of the chain and of nothing else.

A folder of runs may come from somebody else, and the index with it: files of the log that are links are not opened, an
index has the tables of this module and nothing that would compute, and its values are checked before they are used.

Not covered: somebody who edits a row, hashes all rows after it again and removes the index. Publish the last hash
(`ledger verify` prints it) where others see it, and that is covered too.
"""

import contextlib
import datetime
import fcntl
import hashlib
import json
import math
import os
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from golf.files import MAX_TEXT_BYTES, Failure, advice, open_regular
from golf.foreign import terminal
from tools.runs import rows

INDEX_VERSION = 1  # of what is made from the rows; an index of another version is made again, but for what it remembers
DAMAGED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_MISMATCH)
JOURNAL_END = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"  # after the name of a super-journal, which SQLite would delete
MAX_LOG_BYTES = 256 * 2**20  # some 100,000 runs
MAX_VALUE_BYTES = 2**26  # of a text or blob in the index
LARGEST = 1.7976931348623157e308  # of the finite numbers
COLUMNS = (
    "run",
    "status",
    "track",
    "preset",
    "seed",
    "code",
    "variant",
    "finished",
    "steps",
    "seconds",
    "train_loss",
    "dev_bpb",
    "bytes",
    "bpb",
    "artifact",
    "hypothesis",
    "verdict",
    "who",
)


WHOLE_COLUMNS = ("seed", "steps", "bytes")
NUMBER_COLUMNS = ("finished", "seconds", "train_loss", "dev_bpb", "bpb")
TABLES = f"""
    CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY CHECK (id = 1), n, start, end, hash);
    CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, kind, run, body);
    CREATE INDEX IF NOT EXISTS rows_run ON rows (run);
    CREATE INDEX IF NOT EXISTS rows_kind ON rows (kind);
    CREATE TABLE IF NOT EXISTS runs ({", ".join(COLUMNS)}, PRIMARY KEY (run));
    CREATE INDEX IF NOT EXISTS runs_best ON runs (track, bpb);
    CREATE TABLE IF NOT EXISTS seen (path PRIMARY KEY, mtime_ns, size);
"""


def odd_values() -> str:
    """SQL that counts the values in the index that this module never writes."""
    text = "('null', 'text')"
    kinds = dict.fromkeys(WHOLE_COLUMNS, "('null', 'integer')")
    kinds |= dict.fromkeys(NUMBER_COLUMNS, "('null', 'integer', 'real')")
    odd = [f"typeof({key}) NOT IN {kinds.get(key, text)}" for key in COLUMNS]
    odd += [f"{key} NOT BETWEEN -{LARGEST} AND {LARGEST}" for key in NUMBER_COLUMNS]
    return (
        f"SELECT (SELECT count(*) FROM runs WHERE run IS NULL OR {' OR '.join(odd)}) + "
        "(SELECT count(*) FROM rows WHERE typeof(body) <> 'text' OR typeof(kind) NOT IN ('null', 'text')) + "
        "(SELECT count(*) <> 1 OR max(typeof(n) <> 'integer' OR typeof(start) <> 'integer' OR start < 0 OR "
        "typeof(end) <> 'integer' OR end < start OR typeof(hash) <> 'text') FROM state)"
    )


def canonical(row: dict) -> bytes:
    """The row's JSON as it is hashed and stored: sorted keys, no spaces, UTF-8, one line."""
    return json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def row_hash(row: dict) -> str:
    """SHA-256 of the row without its "hash"."""
    return hashlib.sha256(canonical({key: value for key, value in row.items() if key != "hash"})).hexdigest()


def finite(value):
    """`value` with every NaN and infinity inside it replaced by None: JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def whole_rows(data: bytes) -> Iterator[bytes]:
    """The lines of a ledger with their newlines. A part of a row at the end, which a killed writer or a full disk left,
    is no row: the next writer removes it."""
    start = 0
    while end := data.find(b"\n", start) + 1:
        yield data[start:end]
        start = end


def parsed(line: bytes | str) -> dict:
    """The object in a line of the ledger. ValueError if it is none, or so long that reading it takes gigabytes."""
    row = json.loads(line) if len(line) <= MAX_TEXT_BYTES else None
    if not isinstance(row, dict):
        raise ValueError("not a row of the ledger")
    return row


def body_of(row: sqlite3.Row | dict) -> dict:
    """The ledger's row in a row of the index. Failure if it is none that the log takes: the index was not made here."""
    try:
        body = parsed(row["body"])
        wrong = rows.fault(body)
    except (ValueError, RecursionError):
        wrong = "not JSON"
    if wrong:
        raise Failure("ledger.sqlite: it holds a row that is not of the log: remove this file, it is made again")
    return body


def check_chain(data: bytes) -> tuple[int, str]:
    """(rows, last hash) of a whole ledger. Failure names the first row that is damaged, edited, moved or missing."""
    number, previous = 0, ""
    for number, line in enumerate(whole_rows(data), start=1):
        try:
            row = parsed(line)
            good = row["n"] == number and row["previous"] == previous and row["hash"] == row_hash(row)
            previous = row["hash"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Failure(f"ledger.jsonl:{number}: not a row of the ledger") from None
        if not good:
            raise Failure(
                f"ledger.jsonl:{number}: this row was edited, moved, or a row before it removed: its hash or "
                "its link to the row before does not match"
            )
    return number, previous


def explain_database(path: Path, error: sqlite3.Error) -> Failure:
    """What is wrong with the index at `path`, and what to do."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the rest of the bits say where exactly
    if code == sqlite3.SQLITE_FULL:
        return Failure(f"{path}: the disk is full: make room and try again; the log itself is whole")
    if code in DAMAGED:
        return Failure(f"{path}: {error}: remove this file, it is made again")
    return Failure(f"{path}: {error}: the index cannot be used (disk, rights, or another program holds it)")


def check_own(path: Path) -> None:
    """Failure if a file of the log is there and is a link, a pipe or the like: it leads elsewhere."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise Failure(f"{path}: a link, or not a regular file: the log is not read from there: remove it")


def check_index_files(path: Path) -> None:
    """Failure if the index at `path`, or what SQLite would read beside it, leads out of the folder."""
    for end in ("", "-journal", "-wal", "-shm"):
        check_own(path.with_name(path.name + end))
    journal = path.with_name(path.name + "-journal")
    with contextlib.suppress(FileNotFoundError), open_regular(journal) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(JOURNAL_END)))
        if file.read() == JOURNAL_END:
            raise Failure(f"{journal}: it names another journal: remove it and {path.name}, which is made again")


class Ledger:
    """The ledger of one folder of runs. Raises Failure where the file contradicts its index."""

    def __init__(self, runs: Path):
        self.runs, self.path, self.index_path = runs, runs / "ledger.jsonl", runs / "ledger.sqlite"
        self._file = None  # open and locked while this process writes

    @contextlib.contextmanager
    def locked(self):
        """Holds the lock that writers share; may be nested."""
        if self._file is not None:
            yield self._file
            return
        self.runs.mkdir(parents=True, exist_ok=True)
        check_own(self.path)
        with open(self.path, "a+b", buffering=0) as file:
            if os.fstat(file.fileno()).st_size > MAX_LOG_BYTES:
                raise Failure(f"{self.path}: more than {MAX_LOG_BYTES:,} bytes: no log of runs")
            fcntl.flock(file, fcntl.LOCK_EX)
            self._file = file
            try:
                yield file
            finally:
                self._file = None

    def append(self, bodies: list[dict]) -> list[dict]:
        """Adds a row per body ({"kind", "run", ...}) and returns the rows as written.

        Failure, and nothing is added, if a body is not what tools/runs/rows.py says, or the disk is full.
        """
        for body in bodies:
            if wrong := rows.fault(body):
                raise Failure(f"not a row for the log: run {terminal(body.get('run'), 100)}: {wrong}")
        with self.locked() as file:
            number, previous = self._end(file)
            written = []
            for body in bodies:
                number += 1
                row = finite(body) | {
                    "n": number,
                    "previous": previous,
                    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                }
                row["hash"] = previous = row_hash(row)
                written.append(row)
            self._write(file, b"".join(canonical(row) + b"\n" for row in written))
        return written

    def _write(self, file, data: bytes) -> None:
        """All of `data` at the file's end and on the disk, or nothing and a Failure."""
        size, left = file.seek(0, os.SEEK_END), memoryview(data)
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(size)
            raise Failure(f"{self.path}: {error.strerror}: nothing was added to the log{advice(error)}") from None

    @staticmethod
    def _end(file) -> tuple[int, str]:
        """(n, hash) of the last whole row; a part of a row that a killed writer left is cut off."""
        size = file.seek(0, os.SEEK_END)
        tail, step = b"", 65536
        while len(tail) < size and tail[:-1].count(b"\n") < 2:
            start = max(0, size - step)
            file.seek(start)
            tail, step = file.read(size - start), step * 2
        whole = tail[: tail.rfind(b"\n") + 1]
        if len(whole) < len(tail):
            file.truncate(size - len(tail) + len(whole))
        if not whole:
            return 0, ""
        try:
            row = parsed(whole.splitlines()[-1])
            return row["n"], row["hash"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Failure("ledger.jsonl: its last row is damaged (golf log verify)") from None

    def verify(self) -> tuple[int, str]:
        """(rows, last hash) after reading every row; of no rows where nothing was logged yet.

        Failure names what was edited, or says that the end was cut.
        """
        if not self.path.exists() and not self.index_path.exists():
            return check_chain(b"")
        if not self.path.exists():
            raise Failure(f"{self.path}: no ledger yet (golf log sync)")
        with self.locked() as file:
            file.seek(0)
            data = file.read()
            result = check_chain(data)
            with self.index() as database:  # rehashing all rows after an edit makes a good chain
                for line, row in zip(whole_rows(data), database.execute("SELECT * FROM rows ORDER BY n")):
                    if line.decode() != row["body"]:
                        raise Failure(f"ledger.jsonl:{row['n']}: not the row that was here when it was last read")
        return result

    @contextlib.contextmanager
    def index(self) -> Iterator[sqlite3.Connection]:
        """The index, brought up to date: tables rows(n, kind, run, body), runs(COLUMNS), seen(path, mtime_ns, size).

        A row that cannot be used has neither kind nor run there. Failure says what is wrong with the database, also
        where it goes wrong while the caller uses it.
        """
        with self.locked() as file:
            check_index_files(self.index_path)
            try:
                with contextlib.closing(sqlite3.connect(self.index_path, timeout=60)) as database:
                    database.row_factory = sqlite3.Row
                    self._check_tables(database)
                    self._make_tables(database)
                    self._check_values(database)
                    self._catch_up(database, file)
                    yield database
            except sqlite3.Error as error:
                raise explain_database(self.index_path, error) from None

    def _not_ours(self, what: str) -> Failure:
        return Failure(f"{self.index_path}: it has {what} that are not the log's: remove this file, it is made again")

    def _check_tables(self, database: sqlite3.Connection) -> None:
        """Failure if a table or index is not one of TABLES: a stranger's view could compute for ever."""
        database.execute("PRAGMA trusted_schema = OFF")
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        schema = "SELECT type, name, tbl_name, sql FROM sqlite_schema"
        with contextlib.closing(sqlite3.connect(":memory:")) as own:
            own.executescript(TABLES)
            known = set(own.execute(schema))
        if not {tuple(row) for row in database.execute(schema)} <= known:
            raise self._not_ours("tables")

    def _check_values(self, database: sqlite3.Connection) -> None:
        """Failure if the index holds a value that this module never writes."""
        if database.execute(odd_values()).fetchone()[0]:
            raise self._not_ours("values")

    def _make_tables(self, database: sqlite3.Connection) -> None:
        """Makes the tables if they are not there. What another version made of the rows is made again from them."""
        if database.execute("PRAGMA user_version").fetchone()[0] == INDEX_VERSION:
            return
        database.executescript(f"BEGIN; {TABLES} INSERT OR IGNORE INTO state VALUES (1, 0, 0, 0, ''); COMMIT;")
        bodies = [row["body"] for row in database.execute("SELECT body FROM rows ORDER BY n")]
        database.execute("DELETE FROM rows")
        database.execute("DELETE FROM runs")
        for body in bodies:
            try:
                self._take(database, parsed(body), body)
            except (ValueError, KeyError, TypeError, RecursionError):
                raise self._not_ours("rows") from None
        database.execute(f"PRAGMA user_version = {INDEX_VERSION}")
        database.commit()

    def _catch_up(self, database: sqlite3.Connection, file) -> None:
        """Takes the rows that were appended since the index was last used."""
        number, start, end, previous = database.execute("SELECT n, start, end, hash FROM state").fetchone()
        file.seek(start)
        data = file.read()
        last, data = data[: end - start], data[end - start :]  # the row that was last when this index was last used
        if number:
            try:
                same = last.endswith(b"\n") and row_hash(parsed(last)) == previous
            except (ValueError, RecursionError):
                same = False
            if not same:
                raise Failure(
                    f"ledger.jsonl: its end was cut or edited: {number} rows were there when it was last "
                    f"read, and row {number} had the hash {previous[:12]}..."
                )
        for line in whole_rows(data):
            try:
                row = parsed(line)
                hash_, text = row["hash"], line.decode()
                linked = row["previous"] == previous and row["n"] == number + 1 and isinstance(hash_, str)
            except (ValueError, KeyError, TypeError, RecursionError):
                linked = False
            if not linked:
                raise Failure(f"ledger.jsonl:{number + 1}: does not follow the row before it (golf log verify)")
            number, previous, start, end = number + 1, hash_, end, end + len(line)
            self._take(database, row, text)
        database.execute("UPDATE state SET n = ?, start = ?, end = ?, hash = ?", (number, start, end, previous))
        database.commit()

    @classmethod
    def _take(cls, database: sqlite3.Connection, row: dict, body: str) -> None:
        """Puts one more row into the index. One that cannot be used is named on stderr and kept for the chain only."""
        wrong = rows.fault(row)
        kind, run = (None, None) if wrong else (row["kind"], row["run"])
        database.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", (row["n"], kind, run, body))
        if wrong:
            print(
                f"ledger.jsonl:{row['n']}: this row cannot be used and is skipped: run "
                f"{terminal(row.get('run'), 100)}: {wrong}",
                file=sys.stderr,
            )
        else:
            cls._fold(database, row)

    @staticmethod
    def _fold(database: sqlite3.Connection, row: dict) -> None:
        """Brings the run's line in `runs` up to date with one more row, which was checked."""
        kind = row["kind"]
        if kind in ("asked", "question"):
            return
        if kind in ("run", "crash"):  # trained anew: what was packed and scored before belongs to other weights
            keep = database.execute("SELECT hypothesis, verdict, who FROM runs WHERE run = ?", (row["run"],)).fetchone()
            known = rows.KINDS[kind]  # other fields were not checked for a column
            values = {key: row.get(key) if key in known else None for key in COLUMNS} | dict(keep or {})
            values |= {"status": row.get("stopped") or kind, "bytes": None, "bpb": None, "artifact": None}
        elif kind == "pack":
            values = {"bytes": row["bytes"], "artifact": row["artifact"], "bpb": None}
        elif kind == "score":
            current = database.execute("SELECT artifact FROM runs WHERE run = ?", (row["run"],)).fetchone()
            if row["split"] != "dev" or current is None or current["artifact"] != row["artifact"]:
                return
            values = {"bpb": row["bpb"]}
        else:
            values = {key: row[key] for key in ("hypothesis", "verdict", "who") if row.get(key)}
        database.execute("INSERT OR IGNORE INTO runs (run) VALUES (?)", (row["run"],))
        names = [key for key in values if key != "run"]
        if not names:
            return
        database.execute(
            f"UPDATE runs SET {', '.join(f'{key} = ?' for key in names)} WHERE run = ?",
            [*(values[key] for key in names), row["run"]],
        )
