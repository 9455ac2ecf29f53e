"""Score one .golf file on held-out text: bits per byte, with its interval, by slice.

    python eval_heldout.py MODEL.golf --data data/embedded --split dev
    python eval_heldout.py compare OLD.json [OLD.json ...] --new NEW.json [NEW.json ...]

The artifact's code runs in a box and only turns tokens into logits; text, softmax, byte count and clock are this side's
(scoring/score.py). Writes eval.json beside the artifact. Exit status: 0 scored; 1 no score, one line on standard error
says why; 2 usage. The cap on the artifact's size is not checked here: `python -m compress size MODEL.golf` does that.

`--audit` samples what the pass does not show by construction; `--fresh` compares with a second split; `--certify`
insists on every layer of the box. docs/audits.md says what each can and cannot find.

NOT covered: whether the held-out text was in the training data; who ran the scorer, and where.
"""

import argparse
import contextlib
import fcntl
import json
import os
import re
import signal
import sys
import tempfile

from golf.foreign import terminal
from scoring import ScoringError, compare, report
from scoring.score import read_artifact, read_documents, score, tokenise


def parse(arguments):
    """The command line as a namespace; exits with status 2 on a wrong one."""
    parser = argparse.ArgumentParser(description="Score one .golf artifact on held-out text.",
                                     epilog="The size cap is checked by: python -m compress size MODEL.golf")
    parser.add_argument("artifact", metavar="MODEL.golf")
    parser.add_argument("--data", default="data/embedded", metavar="DIR",
                        help="data set of tools/data.py (default: %(default)s)")
    parser.add_argument("--split", default="dev", choices=("dev", "gate", "final"),
                        help="held-out split (default: %(default)s)")
    parser.add_argument("--processes", type=_positive(int), metavar="N",
                        help="boxes (default: one per GPU, or one per CPU core)")
    parser.add_argument("--time_limit", type=_positive(float), default=600.0, metavar="S",
                        help="seconds for decoding and scoring (default: %(default)g)")
    parser.add_argument("--audit", choices=("none", "quick", "full"), default="none",
                        help="sample what the pass does not construct (docs/audits.md; default: %(default)s)")
    parser.add_argument("--fresh", choices=("dev", "gate", "final"), metavar="SPLIT",
                        help="score this split too, and compare")
    parser.add_argument("--certify", action="store_true",
                        help="no score unless every layer of the box is active on this machine")
    parser.add_argument("--out", metavar="F", help="where to write the result (default: eval.json beside the artifact)")
    parser.add_argument("--overhead", action="store_true", help="only time the pass against a plain evaluation in this "
                        "process, without a box: for artifacts of your own")
    parser.add_argument("--json", action="store_true",
                        help="the last line on standard output is the result without its documents")
    return parser.parse_args(arguments)


def parse_compare(arguments):
    """The command line after `compare`; exits with status 2 on a wrong one."""
    parser = argparse.ArgumentParser(prog="eval_heldout.py compare",
                                     description="Is the new artifact better than the old one? One file a seed.")
    parser.add_argument("old", nargs="+", metavar="OLD.json", help="scores of the old artifact's seeds; without --new, "
                        "the last file is the new one")
    parser.add_argument("--new", nargs="+", metavar="NEW.json", default=[], help="scores of the new artifact's seeds")
    parser.add_argument("--margin", type=float, default=compare.MARGIN, metavar="BPB",
                        help="a gain below it is no claim (default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="the last line on standard output is the result")
    options = parser.parse_args(arguments)
    if not options.new:
        if len(options.old) < 2:
            parser.error("two files are needed, an old and a new one")
        options.old, options.new = options.old[:-1], options.old[-1:]
    return options


def main_compare(arguments):
    """The command `compare`; returns its exit status: 0 also where there is no gain."""
    options = parse_compare(arguments)
    result = compare.compare(*([compare.read(path) for path in paths] for paths in (options.old, options.new)),
                             options.margin)
    show(result if options.json else None, report.print_comparison, result)
    return 0


def show(result, printer, *arguments):
    """Print by a function, then `result` as JSON unless it is None. Raises ScoringError where nothing can be printed: a
    full disk, a pipe whose reader went away."""
    try:
        printer(*arguments)
        if result is not None:
            print(json.dumps(result))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again when it ends
        raise ScoringError(f"cannot print: {error.strerror}") from None


def _positive(kind):
    def convert(text):
        value = kind(text)
        if not 0 < value < 1e9:
            raise ValueError
        return value
    convert.__name__ = f"positive {kind.__name__}"  # argparse prints it
    return convert


def write_json(path, value):
    """Write `value` to `path` so that no reader ever sees half of it. Raises OSError, which names `path`."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}")
    text = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    file = _locked(temporary)
    try:
        with file:
            file.write(text.encode())
            file.flush()
            os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, path) from None
        raise


def _locked(path):
    """The file `path`, new and open for writing, with a lock for as long as its writer lives, where the file system has
    locks.

    Another scorer may have been about to remove a stale file of this name: then the lock comes to nothing, and we begin
    again."""
    while True:
        file = open(path, "wb")
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(file.fileno())):
            return file
        file.close()


def remove_stale(path):
    """Remove the temporary files of write_json(path) whose writers were killed: nobody has their lock any more."""
    folder, name = os.path.split(path)
    with contextlib.suppress(OSError):
        for other in os.listdir(folder or "."):
            if re.fullmatch(rf"\.{re.escape(name)}\.\d+", other):
                _remove_unlocked(os.path.join(folder, other))


def _remove_unlocked(path):
    with contextlib.suppress(OSError):  # it is in use, gone, or not ours
        with open(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_uid == os.getuid():
                os.remove(path)


def main_overhead(options):
    """The command with --overhead; returns its exit status."""
    from scoring import overhead  # torch, which the scorer itself does without

    submission, tokenizer, _ = read_artifact(options.artifact)
    documents, _ = read_documents(options.data, options.split)
    tokenise(tokenizer, documents)
    result = overhead.measure(submission, documents)
    show(result if options.json else None, print,
         f"scorer {result['scorer_seconds']:.2f} s, plain evaluation {result['plain_seconds']:.2f} s, "
         f"{result['threads']} threads: overhead {result['overhead']:.3f}")
    return 0


def main_score(arguments):
    """The command without `compare`; returns its exit status."""
    options = parse(arguments)
    path = options.out or os.path.join(os.path.dirname(options.artifact), "eval.json")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that boxes are killed and directories removed
    if options.overhead:
        return main_overhead(options)
    folder = os.path.dirname(path) or "."
    if os.path.exists(options.artifact) and (os.path.isdir(path) or not os.access(folder, os.W_OK)):
        # Said now, not after minutes of scoring.
        raise ScoringError(f"cannot write {path}; name another file with --out")
    remove_stale(path)
    with report.ProgressBar() as progress:
        result = score(options.artifact, options.data, options.split, options.processes, options.time_limit,
                       options.certify, options.audit, options.fresh, progress.phase, progress.tokens)
    write_json(path, result)
    short = {key: value for key, value in result.items() if key != "per_document"}
    show(short if options.json else None, report.print_report, result, path)
    return 0


def main(arguments=None):
    """The command; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return main_compare(arguments[1:]) if arguments[:1] == ["compare"] else main_score(arguments)
    except ScoringError as error:
        print(f"eval_heldout: {terminal(str(error), 10_000)}", file=sys.stderr)
        return 1
    except OSError as error:  # without a name: what is written to a box's directory
        where = terminal(str(error.filename or tempfile.gettempdir()))
        print(f"eval_heldout: {error.strerror}: {where}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("eval_heldout: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
