"""The packer's own check: a file decodes to what was packed, and its minified script does what the script did that ran.

One box does it all: it decodes the file, then runs the file's script on random tokens, model and Scorer with what that
learns, and after it the script as it ran. All logits must be the same, bit for bit. Where they are not, the script runs
twice more, each time in a box of its own: what one script leaves behind in a process, or what a script draws anew each
time, is not the minifier's doing.

Not covered: what a script does beyond some hundred tokens, on a GPU, or when it is trained.
"""

import dataclasses
import itertools
import json
from dataclasses import dataclass, field

import torch

from compress.bounded import MEMORY_BYTES
from compress.verify import ArtifactRun, check_decoded, explain
from golf.box.box import BoxFailure
from golf.foreign import terminal

# The packer knows how much it packed, and its file is worth a longer wait than a stranger's.
SECONDS = 600.0
# Decoded and loaded: codes, bits, values, the model's own copy. A Scorer that learns has as much of its own.
BYTES_PER_WEIGHT = 40
ARTIFACT, ORIGINAL = "", "original"  # folders in the box
ADVICE = (
    "a script must not read its own text, docstrings, annotations or local names; golf check-script says if it does"
)


@dataclass(frozen=True)
class Outcome:
    """What a script gave when it was asked for something."""

    what: str
    digest: str  # of what it gave
    failure: str = field(default="", compare=False)  # how it failed; these words may hold names, which get shorter
    stands: bool = True  # False where its model or Scorer could not be made


def check_packed(data: bytes, weights: dict[str, torch.Tensor], source: str) -> list[str]:
    """Raises ValueError, one line, unless an artifact decodes to these weights and loads, and its script gives the
    logits that `source` gives, of which it was made. Returns warnings about what could not be compared."""
    minified, original = _run(data, weights, {ARTIFACT: None, ORIGINAL: source})
    if minified != original:
        (original,) = _run(data, weights, {ARTIFACT: source})
    if minified != original:
        (again,) = _run(data, weights, {ARTIFACT: source})
        if again != original:
            what, _ = _first_difference(again, original)
            return [
                f"minified or not, the script gives other results each time it runs ({what.what}): seed what it draws"
            ]
        raise ValueError(_explained(*_first_difference(minified, original)))
    failed = [outcome for outcome in original if outcome.failure]
    for outcome in failed:
        if not outcome.stands:
            raise ValueError(explain(BoxFailure("crash", f"{outcome.what}: {outcome.failure}"), SECONDS))
    untold = "not compared with the script as it ran, since both fail here in"
    return [f"{untold} {outcome.what}: {outcome.failure}" for outcome in failed]


def _run(data: bytes, weights: dict[str, torch.Tensor], scripts: dict[str, str | None]) -> list[list[Outcome]]:
    """What each of `scripts` (folder -> source; None: the artifact's own) gives, one after the other in one box.

    Raises ValueError, also if the artifact decodes to other weights.
    """
    size = sum(tensor.numel() for tensor in weights.values())
    run = ArtifactRun(data, SECONDS, MEMORY_BYTES + BYTES_PER_WEIGHT * size)
    task = {"scripts": list(scripts), "vocab_size": run.submission.vocab_size}
    run.beside["walk.json"] = json.dumps(task)
    for folder, source in scripts.items():
        if source is not None and folder == ARTIFACT:
            run.submission = dataclasses.replace(run.submission, train_source=source)
        elif source is not None:
            run.beside[f"{folder}/train_gpt.py"] = source
    check_decoded(run, weights)
    return [[_outcome(answer) for answer in run.outcomes if answer.get("script") == folder] for folder in scripts]


def _outcome(answer: dict) -> Outcome:
    """An answer of the box, of which nothing is believed."""
    failure = terminal(str(answer.get("fails", "")), 300)
    return Outcome(
        terminal(str(answer["what"]), 100), str(answer.get("digest")), failure, answer.get("stands") is not False
    )


def _first_difference(some: list[Outcome], others: list[Outcome]) -> tuple[Outcome, Outcome]:
    """The first pair that differs, of two lists that do."""
    pairs = itertools.zip_longest(some, others, fillvalue=Outcome("all", "nothing more"))
    return next(pair for pair in pairs if pair[0] != pair[1])


def _explained(minified: Outcome, original: Outcome) -> str:
    """Why an artifact is refused."""
    if minified.failure:
        found = f"the script fails, and as it ran it does not ({minified.what}: {minified.failure})"
    elif original.failure:
        found = f"the script does not fail, and as it ran it does ({original.what}: {original.failure})"
    else:
        found = f"the script does not do what it did as it ran ({minified.what} differ)"
    return f"minified, as it is packed, {found}: {ADVICE}"
