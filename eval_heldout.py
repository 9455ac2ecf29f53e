"""Score one .golf file on held-out text: bits per byte, with its interval, by slice.

    python eval_heldout.py MODEL.golf --data data/embedded --split dev

The artifact's code runs in a box and only turns tokens into logits; text, softmax, byte count and clock are this side's
(scoring/score.py). Writes eval.json beside the artifact. Exit status: 0 scored; 1 no score, one line on standard error
says why; 2 usage. The cap on the artifact's size is not checked here: `python -m compress size MODEL.golf` does that.

`--audit` samples what the pass does not show by construction; `--fresh` compares with a second split; `--certify`
insists on every layer of the box and on the torch that records are scored with. docs/audits.md says what each can and
cannot find.

NOT covered: whether one score is better than another (golf prove); whether the held-out text was in the training data;
who ran the scorer, and where.
"""

import argparse
import json
import os
import signal
import sys
import tempfile

from golf.console import guarded
from golf.files import Failure, explain, write_durable
from golf.foreign import terminal
from golf.progress import Progress
from golf.versions import require_torch, torch_of_records
from scoring import report
from scoring.positions import LEVELS
from scoring.score import read_artifact, read_documents, score, tokenise


def parse(arguments):
    """The command line as a namespace; exits with status 2 on a wrong one."""
    parser = argparse.ArgumentParser(
        description="Score one .golf artifact on held-out text.",
        epilog="The size cap is checked by: python -m compress size MODEL.golf",
    )
    parser.add_argument("artifact", metavar="MODEL.golf")
    parser.add_argument(
        "--data", default="data/embedded", metavar="DIR", help="data set of golf data (default: %(default)s)"
    )
    parser.add_argument(
        "--split", default="dev", choices=("dev", "gate", "final"), help="held-out split (default: %(default)s)"
    )
    parser.add_argument(
        "--processes", type=_positive(int), metavar="N", help="boxes (default: one per GPU, or one per CPU core)"
    )
    parser.add_argument(
        "--time-limit",
        type=_positive(float),
        default=600.0,
        metavar="S",
        help="seconds for decoding and scoring (default: %(default)g)",
    )
    parser.add_argument("--time_limit", type=_positive(float), default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--audit",
        choices=("none", *LEVELS),
        default="none",
        help="sample what the pass does not construct (docs/audits.md; default: %(default)s)",
    )
    parser.add_argument(
        "--fresh", choices=("dev", "gate", "final"), metavar="SPLIT", help="score this split too, and compare"
    )
    parser.add_argument(
        "--certify",
        action="store_true",
        help="no score unless every layer of the box is active on this machine, and torch has the version of --torch",
    )
    parser.add_argument(
        "--torch",
        metavar="V",
        help="with --certify, the version of torch that is asked for (default: the one in constraints.txt)",
    )
    parser.add_argument("--out", metavar="F", help="where to write the result (default: eval.json beside the artifact)")
    parser.add_argument(
        "--overhead",
        action="store_true",
        help="only time the pass against a plain evaluation in this process, without a box: for artifacts of your own",
    )
    parser.add_argument(
        "--json", action="store_true", help="the last line on standard output is the result without its documents"
    )
    return parser.parse_args(arguments)


def show(result, printer, *arguments):
    """Print by a function, then `result` as JSON unless it is None. Raises Failure where nothing can be printed: a full
    disk, a pipe whose reader went away."""
    try:
        printer(*arguments)
        if result is not None:
            print(json.dumps(result))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again when it ends
        raise Failure(f"cannot print: {error.strerror}") from None


def _positive(kind):
    def convert(text):
        value = kind(text)
        if not 0 < value < 1e9:
            raise ValueError
        return value

    convert.__name__ = f"positive {kind.__name__}"  # argparse prints it
    return convert


def main_overhead(options):
    """The command with --overhead; returns its exit status."""
    from scoring import overhead  # torch, which the scorer itself does without

    submission, tokenizer, _ = read_artifact(options.artifact)
    documents, _ = read_documents(options.data, options.split)
    tokenise(tokenizer, documents)
    result = overhead.measure(submission, documents)
    show(
        result if options.json else None,
        print,
        f"scorer {result['scorer_seconds']:.2f} s, plain evaluation {result['plain_seconds']:.2f} s, "
        f"{result['threads']} threads: overhead {result['overhead']:.3f}",
    )
    return 0


def main_score(options):
    """The command without --overhead; returns its exit status."""
    path = options.out or os.path.join(os.path.dirname(options.artifact), "eval.json")
    folder = os.path.dirname(path) or "."
    if os.path.exists(options.artifact) and (os.path.isdir(path) or not os.access(folder, os.W_OK)):
        # Said now, not after minutes of scoring.
        raise Failure(f"cannot write {path}; name another file with --out")
    if options.certify:
        require_torch(options.torch or torch_of_records(), "not certified")
    with Progress() as progress:
        result = score(
            options.artifact,
            options.data,
            options.split,
            options.processes,
            options.time_limit,
            options.certify,
            options.audit,
            options.fresh,
            lambda name, symbols: progress.phase(report.PHASES[name], symbols, "tokens"),
            progress.advance,
        )
    write_durable(path, (json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n").encode())
    short = {key: value for key, value in result.items() if key != "per_document"}
    show(short if options.json else None, report.print_report, result, path)
    return 0


def main(arguments=None):
    """The command; returns its exit status."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that boxes are killed and directories removed
    try:
        return main_overhead(options) if options.overhead else main_score(options)
    except Failure as error:
        return explain("eval_heldout", error)
    except BrokenPipeError:
        raise
    except OSError as error:  # without a name: what is written to a box's directory
        where = terminal(str(error.filename or tempfile.gettempdir()))
        print(f"eval_heldout: {error.strerror}: {where}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("eval_heldout: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(guarded("eval_heldout", main))
