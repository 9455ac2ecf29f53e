"""Pack compares the minified script with the one that ran: what the minifier changes is refused, and it alone.

Not covered: what the minifier itself keeps (test_minify.py).
"""

import os

import pytest

from compress import minify, same
from compress.pack import pack_run
from compress.same import Outcome
from tests.support import sample
from tests.support.packed import SOURCE, make_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_boxes")]

SCORER = """
class Scorer:
    scope, chunk = "document", 8

    def __init__(self, model, config):
        self.model, self.learnt = model, 0

    def start(self, lanes):
        pass

    def logits(self, tokens):
        return self.model(tokens) + self.learnt

    def observe(self):
        self.learnt = self.learnt + 1
"""
# What no minifier can keep: the length of the script's own text
LENGTH = "import os\nwith open(__file__) as file:\n    LENGTH = len(file.read())\n"
LOGITS = "return stream @ self.embed.weight.T * self.temperature"


def with_logits(expression: str) -> str:
    """The toy, with other logits."""
    assert LOGITS in SOURCE
    return SOURCE.replace(LOGITS, f"return stream @ self.embed.weight.T * {expression}")


@pytest.fixture
def boxes(monkeypatch):
    """The boxes that were started."""
    started = []
    box = same.ArtifactRun

    def counted(*arguments):
        started.append(arguments)
        return box(*arguments)

    monkeypatch.setattr(same, "ArtifactRun", counted)
    return started


def refused(run, *parts):
    """Packing stops with one line that has all parts, and leaves nothing."""
    with pytest.raises(ValueError) as caught:
        pack_run(run)
    text = str(caught.value)
    assert all(part in text for part in parts) and text.isprintable(), text
    assert sorted(os.listdir(run)) == ["checkpoint.pt", "statistics.pt"]


def test_a_script_with_a_scorer_that_learns_costs_one_box(tmp_path, boxes):
    report = pack_run(make_run(tmp_path / "run", source=SOURCE + SCORER))
    assert len(boxes) == 1 and [line for line in report["warnings"] if "script" in line] == []


def test_a_model_that_reads_its_own_text_is_refused(tmp_path, boxes):
    run = make_run(tmp_path / "run", source=LENGTH + with_logits("LENGTH"))
    refused(run, "does not do what it did as it ran (the model's logits differ)", "must not read its own text")
    assert len(boxes) == 3


def test_a_scorer_that_alone_learns_something_else_is_refused(tmp_path):
    scorer = SCORER.replace("self.learnt + 1", "self.learnt + 1 + LENGTH * 2.0**-23")
    refused(make_run(tmp_path / "run", source=LENGTH + SOURCE + scorer), "(the Scorer's logits of chunk 2 differ)")


def test_another_last_bit_is_a_difference(tmp_path, monkeypatch):
    source = with_logits("self.temperature")
    changed = minify.minified_script(with_logits("(self.temperature * (1 + 2.0**-23))"))
    monkeypatch.setattr("compress.pack.minified_script", lambda source: changed)
    refused(make_run(tmp_path / "run", source=source), "(the model's logits differ)")


@pytest.mark.parametrize(
    "before, after, parts",
    [
        ("def build_model", "def build_models", ["as it ran it does not (building the model: AttributeError"]),
        ("scope, chunk", "scope, chunks", ["as it ran it does not (the Scorer's scope and chunk: AttributeError"]),
        pytest.param(
            "    def observe",
            "    def observed",
            ["as it ran it does not (the Scorer's logits of chunk 1: AttributeError"],
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_minified_script_that_fails_is_told_from_one_that_never_worked(tmp_path, monkeypatch, before, after, parts):
    source = SOURCE + SCORER
    assert before in source
    changed = minify.minified_script(source.replace(before, after))
    monkeypatch.setattr("compress.pack.minified_script", lambda source: changed)
    refused(make_run(tmp_path / "run", source=source), *parts)


def test_a_script_that_fails_both_ways_is_no_fault_of_the_minifier(tmp_path, boxes):
    """Today's kernels for GPUs alone: there is nothing to compare on a CPU."""
    run = make_run(tmp_path / "run", source=with_logits("torch.ones(1, device='cuda')"))
    (warning,) = [line for line in pack_run(run)["warnings"] if "compared" in line]
    assert "both fail here in the model's logits: " in warning and len(boxes) == 1
    refused(
        make_run(tmp_path / "no model", source="raise KeyError(4)\n" + SOURCE), "importing train_gpt.py: KeyError: 4"
    )


@pytest.mark.parametrize("where", sample([with_logits("DRAWN"), SOURCE + SCORER.replace("+ 1", "+ DRAWN")], 2))
def test_what_a_script_draws_is_not_blamed_on_the_minifier(tmp_path, where):
    drawn = "import os\nDRAWN = int.from_bytes(os.urandom(3), 'little')\n"
    report = pack_run(make_run(tmp_path / "run", source=drawn + where))
    (warning,) = [line for line in report["warnings"] if "each time it runs" in line]
    assert "minified or not" in warning and "logits" in warning and (tmp_path / "run/model.golf").exists()


def test_what_a_script_leaves_in_the_process_is_not_blamed_on_the_minifier(tmp_path, boxes):
    """This one runs once in a process, as what registers a kernel may; so it runs again alone."""
    once = "import builtins\nassert not hasattr(builtins, 'toy')\nbuiltins.toy = 1\n"
    report = pack_run(make_run(tmp_path / "run", source=once + SOURCE))
    assert len(boxes) == 2 and [line for line in report["warnings"] if "script" in line] == []


def test_the_words_of_a_failure_are_not_compared():
    long, short = (Outcome("the model's logits", "None", f"NameError: {name}") for name in ("alpha", "a"))
    assert long == short and long != Outcome("the model's logits", "0")


def test_nothing_that_the_box_says_reaches_a_terminal_as_it_is():
    answer = {"what": "a\x1b[2J" + "b" * 1000, "fails": ["\n"], "stands": "no"}
    outcome = same._outcome(answer)
    assert (outcome.what + outcome.failure).isprintable() and len(outcome.what) < 200 and outcome.stands


def test_seeds_that_a_script_does_not_set_are_torchs(tmp_path, boxes):
    """torch is seeded before the script is imported, as when it is scored, so what it draws of that is the same."""
    source = with_logits("NOISE").replace("\nclass Block", "\nNOISE = torch.randn(())\n\nclass Block", 1)
    report = pack_run(make_run(tmp_path / "run", source=source))
    assert len(boxes) == 1 and [line for line in report["warnings"] if "script" in line] == []
