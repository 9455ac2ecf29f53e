"""golf check-script: no fault in scripts that keep the contract, and each fault that was planted into one, by its part.

Not covered: what a run leaves (tests/test_contract.py); scripts that hang, which end as every box does.
"""

import json
import shutil

import pytest

import compress.quantise
import train_gpt
from golf import tokenizer_section
from golf.__main__ import main as golf
from golf.shards import write_shard
from tests.support import ROOT, contract_data, sample
from tools.plan import check_script, contract_in_box

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_boxes")]

MINIMAL = (ROOT / "docs" / "minimal_gpt.py").read_text(encoding="utf-8")
SMALL = {
    "= 2048  # tokens": "= 300  # tokens",
    "= 256  # tokens": "= 32  # tokens",
    "= 4  # layers": "= 1  # layers",
    "= 128  # channels": "= 32  # channels",
    "= 4  # heads": "= 2  # heads",
}
RETURN = "return F.linear(self.norm(x), self.embed.weight)"
MADE = "        self.norm = nn.LayerNorm(config.model_dim)\n"
END = "\n\nif __name__ == "
SCORER = '''

class Scorer:
    """Windows of 8 tokens that know nothing of each other, and a way to go wrong."""

    def __init__(self, model, config):
        self.model, self.scope, self.chunk, self.calls = model, "document", 8, 0

    def start(self, lanes):
        pass

    def logits(self, tokens):
        self.calls += 1
        past = torch.ones_like(tokens[:, :1])
        return self.model(torch.cat((past, tokens[:, :-1]), 1))

    def observe(self):
        self.calls = 0
'''
# name: (old and new text in pairs, the parts whose faults are found, words in one of them)
PLANTED = {
    "no Config": ([END, "\n\ndel Config" + END], {"config"}, "defines no Config"),
    "no build_model": (["def build_model(", "def make_model("], {"model"}, "defines no build_model"),
    "not Python": (["def build_model(", "def build model("], {"script", "config"}, "minifier"),
    "an import that ends": (["\nclass RunError", "\nsys.exit(3)\n\n\nclass RunError"], {"script"}, "SystemExit: 3"),
    "a package that is not free": (["import torch\n", "import scipy\nimport torch\n"], {"script"}, "No module named"),
    "a tied head of its own name": (
        [MADE, MADE + "        self.head = nn.Linear(config.model_dim, config.vocab_size, bias=False)\n"
         "        self.head.weight = self.embed.weight\n"], {"state"}, "head.weight is embed.weight again",
    ),
    "a buffer in the state_dict, one of integers": (
        [MADE, MADE + "        self.register_buffer('scale', torch.ones(1))\n"
         "        self.register_buffer('count', torch.tensor(1))\n"], {"state"}, "persistent=False",
    ),
    "a drawn buffer outside it": (
        [MADE, MADE + "        self.register_buffer('drawn', torch.randn(config.model_dim), persistent=False)\n",
         RETURN, "return F.linear(self.norm(x) + self.drawn, self.embed.weight)"], {"state"}, "two models",
    ),
    "a matrix past F.linear": (
        [RETURN, "return self.norm(x) @ self.mix @ self.embed.weight.T", MADE,
         MADE + "        self.mix = nn.Parameter(torch.zeros(config.model_dim, config.model_dim))\n"],
        {"statistics"}, "mix [32, 32] reaches neither",
    ),
    "another number of ids than the tokenizer's and the shards'": (
        ["= 300  # tokens", "= 290  # tokens"], {"tokenizer", "shards"}, "write vocab_size=300",
    ),
    "logits of a padded vocabulary": (
        [RETURN, "return F.pad(F.linear(self.norm(x), self.embed.weight), (0, 20))"], {"logits"}, "[2, 32, 320]",
    ),
    "logits that are no numbers": ([RETURN, RETURN.replace("return ", "return 1e38 * 1e38 * ")], {"logits"}, "NaN"),
    "attention to what comes": (["is_causal=True", "is_causal=False"], {"causality"}, "change with the tokens"),
    "a bound and a number beyond all numbers": (
        ["Annotated[int, 1, 2**40] = 4_096_000", "float = 1e999"], {"config"}, "neither text nor a number",
    ),
    "fields out of bounds": (
        ['track: str = "open"', 'track: str = "moon"', "] = 1337", "] = 0.5"], {"config"}, "moon",
    ),
    "a seed below its bound, and a preset beyond what an annotation says": (
        ["] = 1337", "] = -1", "1e9] = 1.0", "0.5] = 1.0"], {"config"}, "clip is 1.0: its annotation says from 0.0 to",
    ),
    "an integer that cannot be written short": (
        ["\nclass RunError", "\nHUGE = 0x" + 5000 * "f" + "\n\n\nclass RunError"], {"script"}, "decimal digits",
    ),
    "dropout that stays on": (
        [RETURN, RETURN.replace("self.norm(x)", "F.dropout(self.norm(x))")], {"repeat"}, "two calls",
    ),
    "its own text": (
        ["        for block in self.blocks:\n", "        x = x * len(open(__file__).read())\n"
         "        for block in self.blocks:\n"], {"minified"}, "other logits",
    ),
    "a Scorer without observe": (
        [END, SCORER.replace("def observe", "def see") + END], {"scorer"}, "has no observe",
    ),
    "a Scorer that learns too early": (
        [END, SCORER.replace("-1]), 1))", "-1]), 1)) * self.calls") + END],
        {"repeat"}, "two calls",
    ),
    "a Scorer that looks at the answer": (
        [END, SCORER.replace("(past, tokens[:, :-1])", "(tokens, )") + END], {"causality"}, "change with the tokens",
    ),
    "a Scorer that mixes lanes": (
        [END, SCORER.replace("-1]), 1))", "-1]), 1)).mean(0, keepdim=True).expand(len(tokens), -1, -1)") + END],
        {"causality"}, "another lane",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine decides no test."""
    monkeypatch.setattr(check_script, "SECONDS", 3000.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return contract_data.write(tmp_path_factory.mktemp("contract") / "data")


def edited(source, *edits):
    """`source` with each old text, which it must have, made the new one after it."""
    for old, new in zip(edits[::2], edits[1::2]):
        assert old in source, old
        source = source.replace(old, new, 1)
    return source


def small(*edits):
    return edited(MINIMAL, *[text for pair in SMALL.items() for text in pair], *edits)


@pytest.mark.parametrize("name", sample(PLANTED, 4))
def test_a_planted_fault_is_found(name, data, tmp_path):
    edits, parts, words = PLANTED[name]
    script = tmp_path / "mine.py"
    script.write_text(small(*edits))
    report = check_script.check(script, data=data)
    assert {row["part"] for row in report.faults} == parts, report.faults
    assert any(words in row["text"] for row in report.faults), report.faults
    assert all("\n" not in row["text"] for row in report.faults)


def test_the_minimal_script_has_no_fault(data, tmp_path, capsys):
    script = tmp_path / "mine.py"
    for text in (small(), small(END, SCORER + END)):
        script.write_text(text)
        assert golf(["check-script", str(script), "--data", str(data), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["faults"] == [] and result["not_checked"] == [] and result["preset"] == "open"
    assert (result["scope"], result["chunk"], result["contract"]) == ("document", 8, check_script.CONTRACT)
    assert f"\nVersion {check_script.CONTRACT}. " in (ROOT / "docs" / "contract.md").read_text()


@pytest.mark.parametrize("preset", ["tiny", "pocket"])
def test_the_kits_own_script_has_no_fault(preset, tmp_path):
    """With its Scorer that learns, and without a data set to compare with."""
    report = check_script.check(ROOT / "train_gpt.py", preset, tmp_path / "nowhere")
    assert report.faults == [] and len(report.not_checked) == 1
    model = train_gpt.build_model(train_gpt.parse_config([f"--preset={preset}"], {}))
    assert report.facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert report.facts["scope"] == {"tiny": "document", "pocket": "stream"}[preset]


@pytest.mark.long
@pytest.mark.parametrize("path", sorted(ROOT.glob("records/*/*/train_gpt.py")), ids=lambda path: path.parent.name)
def test_the_scripts_of_records_have_no_fault(path, tmp_path):
    assert check_script.check(path, "pocket", tmp_path / "nowhere").faults == []


def test_a_preset_that_is_not_there_hides_no_other_reason():
    for edits, preset, words in (
        (['"open": {}', '"mine": {}'], None, "name one of its own with --preset"),
        ([], "mine", "PRESETS has no dict for 'mine'"),
        (["] = 1337", "] = len([])"], None, "'len([])' is no literal"),
    ):
        report = check_script.Report()
        check_script.read_settings(small(*edits).encode(), preset, report)
        [fault] = report.faults
        assert fault["part"] == "config" and words in fault["text"]


def test_bad_input_is_one_line(tmp_path, capsys):
    assert golf(["check-script", str(tmp_path / "none.py")]) == 1
    assert "cannot read it" in capsys.readouterr().err


def test_a_disk_without_room_for_the_checkpoint(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    for parameters, parts in ((free // 4 - 2**20, []), (free // 4 + 2**28, ["space"])):
        report = check_script.Report()
        report.facts["parameters"] = parameters
        check_script.check_space({"run_dir": str(tmp_path / "not" / "there")}, report)
        assert [row["part"] for row in report.faults] == parts


def test_shards_and_tokenizers_that_are_none(data, tmp_path):
    for name in ("tokenizer.model", "train_000000.bin"):
        (tmp_path / name).write_bytes(b"no such file")
    write_shard(tmp_path / "dev_000000.bin", [1, 2, 3])
    report = check_script.Report()
    check_script.check_data(tmp_path, 300, report)
    assert [row["part"] for row in report.faults] == ["tokenizer", "shards"]
    (tmp_path / "train_000000.bin").unlink()
    write_shard(tmp_path / "train_000000.bin", [299] * 10 + [300])
    (tmp_path / "tokenizer.model").write_bytes((data / "tokenizer.model").read_bytes())
    report = check_script.Report()
    check_script.check_data(tmp_path, 300, report)
    [fault] = report.faults
    assert fault["part"] == "shards" and "the id 300" in fault["text"]


def test_its_numbers_are_the_kits():
    assert contract_in_box.MIN_SIDE == compress.quantise.MIN_SIDE
    assert contract_in_box.SPECIALS == len(tokenizer_section.SPECIALS)
    assert contract_in_box.LARGEST_VOCABULARY == check_script.LARGEST_VOCABULARY == tokenizer_section.MAX_VOCAB
    assert check_script.SMALLEST_VOCABULARY == tokenizer_section.FIRST_PIECE
