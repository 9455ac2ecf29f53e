"""docs/contract.md against what is: real runs of docs/minimal_gpt.py and train_gpt.py, what the packer refuses, the
schemas; and the minimal script's own numbers.

Not covered: the checker (tests/tools/plan/test_check_script.py); the commands on the page (tests/test_readme.py).
"""

import json
import math
import re
import shutil
import sys
from dataclasses import asdict, fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.checkpoint import RunError, load_checkpoint, load_statistics
from compress.pack import pack_run
from compress.verify import ArtifactRun
from docs import minimal_gpt
from golf import schema, script
from golf.files import Failure, read_metrics, write_json
from golf.tokenizer import Tokenizer
from scoring import score as scoring_score
from tests.support import ROOT, contract_data, warm
from tools.records import clock_rules, record

SCRIPT = ROOT / "docs" / "minimal_gpt.py"
PAGE = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
NAMED = {"taps": "TAP", "linear": "NAME", "embedding": "NAME"}  # objects whose keys are names
KINDS = {"int": int, "text": str, "object": (dict, list), "float": (float, int, type(None))}


def table(heading):
    """{field: (type, needed)} of the table below a heading of the page."""
    part = PAGE.split(f"\n### {heading}\n")[1].split("\n#")[0]
    rows = [[cell.strip() for cell in line.split(" | ")] for line in part.splitlines() if line.startswith("| `")]
    return {row[0].strip("|` "): (row[1], row[2]) for row in rows}


def flattened(statistics):
    """{field of the page: a value} of statistics.pt."""
    found = {}
    for key, value in statistics.items():
        if key not in NAMED:
            found[key] = value
        for inner in value.values() if key in NAMED else ():
            entries = inner.items() if isinstance(inner, dict) else [(None, inner)]
            found |= {".".join(filter(None, (key, NAMED[key], name))): each for name, each in entries}
    return found


def fits(value, kind):
    """Whether a value is of a type as the page writes it."""
    if kind in KINDS:
        return isinstance(value, KINDS[kind]) and not isinstance(value, bool)
    dtype, sides = re.fullmatch(r"(\w+) \[([\w, ]+)\]", kind).groups()
    return str(value.dtype) == f"torch.{dtype}" and value.ndim == len(sides.split(","))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return contract_data.write(tmp_path_factory.mktemp("contract") / "data")


def run(script_path, arguments, data, folder):
    words = [sys.executable, str(script_path), *arguments, f"--data_dir={data}", f"--run_dir={folder}", "--seed=3"]
    done = warm.run(words, cwd=ROOT, timeout=500)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def minimal(data):
    return run(SCRIPT, contract_data.MINIMAL, data, data.parent / "minimal")


@pytest.fixture(scope="module")
def kit(data):
    return run(ROOT / "train_gpt.py", contract_data.KIT, data, data.parent / "kit")


@pytest.fixture(params=["minimal", "kit"])
def folder(request):
    return request.getfixturevalue(request.param)


def contents(folder, name):
    if name == "run.json":
        return json.loads((folder / name).read_text())
    value = torch.load(folder / name, weights_only=True)
    return flattened(value) if name == "statistics.pt" else value


# ---- The page ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["checkpoint.pt", "statistics.pt", "run.json"])
def test_a_run_leaves_the_fields_of_the_page(folder, name):
    fields, found = table(name), contents(folder, name)
    assert {key for key, (_, needed) in fields.items() if needed != "no"} <= found.keys() <= fields.keys()
    assert [key for key, value in found.items() if not fits(value, fields[key][0])] == []


def test_the_page_has_no_field_that_nobody_writes(kit):
    for name in ("checkpoint.pt", "statistics.pt", "run.json"):
        assert table(name).keys() == contents(kit, name).keys()


def test_what_the_page_calls_needed_is_missed(minimal, tmp_path):
    """And what it does not call so can be left out."""
    fields = table("checkpoint.pt")
    shutil.copytree(minimal, tmp_path / "run")
    whole = contents(minimal, "checkpoint.pt")
    for key, (_, needed) in fields.items():
        torch.save({name: value for name, value in whole.items() if name != key}, tmp_path / "run" / "checkpoint.pt")
        if needed == "no":
            load_checkpoint(tmp_path / "run")
        else:
            with pytest.raises(RunError, match=key):
                load_checkpoint(tmp_path / "run")

    model = load_checkpoint(minimal).model
    for key, (_, needed) in table("statistics.pt").items():
        statistics = torch.load(minimal / "statistics.pt", weights_only=True)
        outer, _, inner = key.partition(".")
        for entry in statistics[outer].values() if inner.count(".") else ():
            entry.pop(inner.partition(".")[2], None)
        if not inner.count("."):
            del statistics[outer]
        torch.save(statistics, tmp_path / "run" / "statistics.pt")
        assert needed == "yes"
        with pytest.raises(RunError):
            load_statistics(tmp_path / "run", model)
    (tmp_path / "run" / "statistics.pt").unlink()
    assert load_statistics(tmp_path / "run", model) is None


def outline(value):
    """What a torch file holds, as JSON: a tensor is its dtype and shape."""
    if isinstance(value, torch.Tensor):
        return {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
    return {key: outline(each) for key, each in value.items()} if isinstance(value, dict) else value


def fields_of(properties):
    """{field of the page: its schema} of the properties of a schema; a statistic has its name in between."""
    for key, part in properties.items():
        inner = part["additionalProperties"] if key in NAMED else None
        if inner is None or "dtype" in inner["properties"]:
            yield ".".join(filter(None, (key, NAMED.get(key)))), inner or part
        else:
            assert set(inner["required"]) == inner["properties"].keys()
            yield from ((f"{key}.{NAMED[key]}.{name}", each) for name, each in inner["properties"].items())


@pytest.mark.parametrize("name", ["checkpoint.pt", "statistics.pt", "run.json", "metrics.jsonl"])
def test_the_page_and_the_schemas_agree(name):
    whole = json.loads((ROOT / "docs" / f"{name.partition('.')[0]}.schema.json").read_text())
    fields, found = table(name), dict(fields_of(whole["properties"]))
    assert found.keys() == fields.keys()
    needed = {key.partition(".")[0] for key, (_, needed) in fields.items() if needed == "yes"}
    assert set(whole["required"]) == needed
    for key, part in found.items():  # tensors are of the page's type and number of sides
        if re.fullmatch(r"\w+ \[.*\]", fields[key][0]):
            dtype, sides = fields[key][0].removesuffix("]").split(" [")
            shape = part["properties"]["shape"]
            assert part["properties"]["dtype"] == {"const": dtype}
            assert shape["minItems"] == shape["maxItems"] == len(sides.split(","))


CHANGES = {
    "format": [2, "1"],
    "track": [3],
    "config": [[], "text"],
    "source": [7],
    "source_sha256": [None],
    "tokenizer": [torch.zeros(3), torch.zeros(2, 2, dtype=torch.uint8), "text", torch.zeros(4, dtype=torch.uint8)],
    "model": [[], {}, {"a": 1}, {"a": torch.zeros(2, dtype=torch.int64)}, {"a": torch.zeros(2, dtype=torch.bfloat16)}],
    "bytes_per_token": [0.0, -1.0, None, "4", 3.5],
    "parameters": [[], {"a": {}}, {"a": {"group": 3}}, {}],
    "step": ["any"],
}


def test_the_schema_of_checkpoints_takes_what_the_packer_takes(minimal, tmp_path):
    whole = contents(minimal, "checkpoint.pt")
    changed = [whole | {key: value} for key, values in CHANGES.items() for value in values]
    changed += [{name: value for name, value in whole.items() if name != key} for key in whole]
    taken = []
    for value in changed:
        torch.save(value, tmp_path / "checkpoint.pt")
        try:
            load_checkpoint(tmp_path)
            taken.append(True)
        except RunError:
            taken.append(False)
    assert taken == [schema.faults(outline(value), "checkpoint") == [] for value in changed]
    assert taken.count(True) == 7


def test_what_a_run_leaves_keeps_the_schemas(folder):
    assert schema.faults(contents(folder, "run.json"), "run") == []
    for name in ("checkpoint", "statistics"):
        value = outline(torch.load(folder / f"{name}.pt", weights_only=True))
        assert schema.faults(value, name) == [] and schema.faults(value | {"format": 2}, name) != []
    rows = read_metrics(folder / "metrics.jsonl")
    assert len(rows) >= 3 and [fault for row in rows for fault in schema.faults(row, "metrics")] == []
    assert set().union(*rows) <= table("metrics.jsonl").keys()


VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.sampled_from(["step", "elapsed", "loss", "other"]), VALUES | st.text(max_size=2)))
def test_the_schema_of_metrics_takes_what_the_readers_take(tmp_path_factory, row):
    path = tmp_path_factory.getbasetemp() / "row.jsonl"
    path.write_text(json.dumps(row) + "\n")
    try:
        read_metrics(path)
        taken = True
    except Failure:
        taken = False
    assert taken == (schema.faults(row, "metrics") == [])


def test_golf_check_misses_what_the_page_says_it_needs(folder, tmp_path):
    """R4's comparison of log, metrics and run.json: whole, and without each field in turn."""
    found = contents(folder, "run.json")
    (tmp_path / "logs").mkdir()
    for name, copy in (("train.log", "logs/seed3.log"), ("metrics.jsonl", "logs/seed3.metrics.jsonl")):
        shutil.copy(folder / name, tmp_path / copy)
    submission = SimpleNamespace(folder=tmp_path, record={"track": found["track"]})
    row = {"train_seconds": found["training_seconds"], "steps": found["steps"], "tokens": found["tokens"]}
    assert clock_rules.contradiction(submission, row, 3, found) is None
    for key, (_, needed) in table("run.json").items():
        if needed == "check":
            with pytest.raises(KeyError, match=key):
                clock_rules.contradiction(submission, row, 3, {k: v for k, v in found.items() if k != key})
    text = (tmp_path / "logs/seed3.log").read_text()
    last = found["steps"]
    for line in (f"stopped: {found['stopped']}\n", 'config {"', f"step {last:6d} "):
        assert line in text
        (tmp_path / "logs/seed3.log").write_text(text.replace(line, ""))
        assert clock_rules.contradiction(submission, row, 3, found).status == "FAIL"


def test_the_page_quotes_the_minimal_script():
    quotations = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    source = SCRIPT.read_text(encoding="utf-8")
    assert len(quotations) >= 3 and [text for text in quotations if text not in source] == []


# ---- The minimal script --------------------------------------------------------------------------------------------


def test_the_minimal_script_is_short():
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) <= 350


def test_its_settings_are_read_as_they_are():
    source = SCRIPT.read_bytes()
    for preset in minimal_gpt.PRESETS:
        config = minimal_gpt.parse_config([f"--preset={preset}"])
        assert script.read(source, preset) | {"preset": preset} == asdict(config)


def test_its_artifact_scores_what_its_weights_give(minimal, data, tmp_path, warm_boxes):
    """Packed and scored, against a straight evaluation of the unpacked weights; and a record takes such a run."""
    run_folder = tmp_path / "run"
    shutil.copytree(minimal, run_folder)
    packed = pack_run(run_folder)
    [warning] = packed["warnings"]
    assert "the finest steps that help fit below the cap" in warning
    score = scoring_score.score(str(run_folder / "model.golf"), str(data), "dev", 1)
    write_json(run_folder / "eval.json", score)
    assert score["scope"] == "document"

    checkpoint = torch.load(minimal / "checkpoint.pt", weights_only=True)
    config = minimal_gpt.Config(**checkpoint["config"])
    model = minimal_gpt.build_model(config)
    artifact = ArtifactRun((run_folder / "model.golf").read_bytes())
    model.load_state_dict({tensor.name: tensor.torch() for tensor in artifact})
    tokenizer = Tokenizer(bytes(checkpoint["tokenizer"].numpy()))
    nats = 0.0
    for line in (data / "dev_docs.jsonl").read_text().splitlines():
        ids = [1, *tokenizer.encode(json.loads(line)["text"]).tolist(), 1]
        for begin in range(0, len(ids) - 1, config.seq_len):
            window = torch.tensor(ids[begin : begin + config.seq_len + 1])
            with torch.no_grad():
                logits = model(window[None, :-1])[0].double()
            nats += F.cross_entropy(logits, window[1:], reduction="sum").item()
    assert score["bpb"] == pytest.approx(nats / math.log(2) / score["raw_bytes"], abs=1e-5)

    taken = record.read_run(run_folder)
    assert taken.source == SCRIPT.read_bytes() and taken.run["train_loss"] < math.log(300)
    assert script.artifact_config(taken.source, "tiny", taken.run["config"]) == checkpoint["config"]
    flags = {flag.partition("=")[0] for flag in record.overrides(taken.source, taken.run)}
    assert flags == {argument.partition("=")[0] for argument in contract_data.MINIMAL[1:]} | {"--data_dir"}


def test_a_seed_gives_the_same_weights(minimal, data, tmp_path):
    again = run(SCRIPT, contract_data.MINIMAL, data, tmp_path / "again")
    first, second = (torch.load(place / "checkpoint.pt", weights_only=True)["model"] for place in (minimal, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_its_rows_are_of_the_text(data):
    config = minimal_gpt.parse_config([*contract_data.MINIMAL, f"--data_dir={data}"])
    tokens = minimal_gpt.read_tokens(config)
    assert len(tokens) == 2 * contract_data.SHARD_TOKENS
    x, y = minimal_gpt.batch(tokens, 5, 32, torch.Generator().manual_seed(0))
    windows = {tuple(tokens[i : i + 33].tolist()) for i in range(len(tokens) - 32)}
    assert all((*row.tolist(), last.item()) in windows for row, last in zip(x, y[:, -1]))
    assert torch.equal(x[:, 1:], y[:, :-1])


def test_its_second_moments_are_those_of_single_tokens():
    """Against sums over tokens in float64, one at a time; labels as they were drawn."""
    torch.manual_seed(1)
    config = minimal_gpt.Config(vocab_size=20, seq_len=4, num_layers=1, model_dim=8, num_heads=2, batch_tokens=8,
                                calibration_tokens=8)  # fmt: skip
    model = minimal_gpt.build_model(config).double()
    tokens = np.arange(100, dtype=np.uint16) % 20
    found = minimal_gpt.calibrate(model, tokens, config, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    x, _ = minimal_gpt.batch(tokens, 2, 4, generator)
    kept = {}
    hook = model.blocks[0].up.register_forward_hook(lambda _, inputs, out: kept.update(x=inputs[0], y=out))
    looked_up = model.embed.register_forward_hook(lambda _, inputs, out: kept.update(e=out))
    logits = model(x).flatten(0, 1)
    hook.remove(), looked_up.remove()
    labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    gradient, at_lookup = torch.autograd.grad(loss, [kept["y"], kept["e"]])
    inputs = kept["x"].detach().flatten(0, 1)
    name = "blocks.0.up.weight"
    expected = sum(torch.outer(row, row) for row in inputs) / 8
    assert torch.allclose(found["taps"][found["linear"][name]["tap"]], expected)
    expected = sum(row**2 for row in gradient.flatten(0, 1)) / 8
    assert torch.allclose(found["linear"][name]["output_gradient"], expected)
    rows = at_lookup.flatten(0, 1)
    assert torch.allclose(found["embedding"]["embed.weight"]["gradient_second_moment"], rows.T @ rows / 8)
    by_row = torch.zeros(20).double()
    for token, row in zip(x.flatten(), rows):
        by_row[token] += row.square().sum() / 8
    assert torch.allclose(found["embedding"]["embed.weight"]["row_gradient"].double(), by_row)
    assert "embed.weight" in found["linear"] and found["tokens"] == 8


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([field.name for field in fields(minimal_gpt.Config) if type(field.default) in (int, float)]),
    st.integers().map(str) | st.floats().map(str) | st.sampled_from(["", "0", "1", "1024", "1e300", "9" * 5000]),
)
def test_any_number_in_any_field_is_refused_in_a_line_or_a_run_starts(name, text):
    try:
        config = minimal_gpt.parse_config(["--preset=tiny", f"--{name}={text}"])
    except minimal_gpt.RunError as error:
        assert "\n" not in str(error) and len(str(error)) < 250
        return
    assert config.max_tokens // config.batch_tokens >= 1 and config.batch_tokens // config.seq_len >= 1
    with torch.device("meta"):
        minimal_gpt.build_model(config)(torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--learning_rat=1", "unknown argument"),
        ("seed=1", "unknown argument"),
        ("--preset=huge", "choose one of open, tiny"),
        ("--num_layers=two", "takes a int"),
        ("--learning_rate=nan", "--learning_rate must be from 0.0 to 1,000.0"),
        ("--num_heads=0", "--num_heads must be from 1 to 1,000"),
        ("--seed=2147483648", "--seed must be from 0 to 2,147,483,647"),
        ("--model_dim=16384", "at most 2^30 weights"),
        ("--batch_tokens=1073741824", "and logits of a step"),
        ("--track=moon", "--track must be pocket, 2mb, 16mb or open"),
        ("--model_dim=65", "multiple of --num_heads"),
        ("--batch_tokens=100", "multiple of --seq_len"),
        ("--max_tokens=1", "at least --batch_tokens"),
        ("--vocab_size=301", "write --vocab_size=300"),
        ("--vocab_size=290", "--vocab_size is too small"),
        ("--data_dir=/nowhere", "build the data"),
    ],
)
def test_its_mistakes_are_one_line(argument, words, data, tmp_path):
    with pytest.raises(minimal_gpt.RunError, match=re.escape(words)):
        given = [*contract_data.MINIMAL, f"--data_dir={data}", f"--run_dir={tmp_path / 'run'}", argument]
        minimal_gpt.train(minimal_gpt.parse_config(given), "")
    assert list(tmp_path.iterdir()) == []
