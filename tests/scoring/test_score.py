"""scoring/*: the boxed score against a straight in-process evaluation, scorers that adapt against plain Python, and
artifacts that misbehave, each of which must end in one verdict and leave nothing behind."""

import dataclasses
import glob
import hashlib
import io
import json
import math
import os
import random
import socket
import tempfile
import time

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import given
from hypothesis import strategies as st

from golf import container, tokenizer_section
from golf.box import box, confine, protocol
from golf.tokenizer import Tokenizer
from scoring import ScoringError, likelihood, lossless, passes
from scoring import score as scoring_score

DECODE = """
import io
import numpy
import torch

def decode_weights(payload):
    return {name: torch.from_numpy(array) for name, array in numpy.load(io.BytesIO(payload)).items()}
"""

SCRIPT = """
import dataclasses
import torch
from torch import nn
import torch.nn.functional as F

@dataclasses.dataclass(frozen=True)
class Config:
    vocab_size: int = 300
    seq_len: int = 8
    width: int = 16

class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.head = nn.Linear(config.width, config.vocab_size)

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return 6 * self.head(x)

def build_model(config):
    return Model(config)
"""

# Adaptive bigram counts, one table per lane; it also holds the scorer to the order start, (logits+, observe)*.
ADAPTIVE = SCRIPT + """
class Scorer:
    scope = "SCOPE"
    chunk = 5

    def __init__(self, model, config):
        self.counts, self.size, self.due = None, config.vocab_size, "start"

    def start(self, lanes):
        assert self.due in ("start", "logits")
        if self.scope == "document" or self.counts is None:
            self.counts = torch.ones(lanes, self.size, self.size, dtype=torch.float64)
        assert len(self.counts) == lanes
        self.lanes, self.due = torch.arange(lanes)[:, None], "logits"
        self.last = torch.ones(lanes, 1, dtype=torch.int64)

    def logits(self, tokens):
        assert self.due in ("logits", "observe")
        self.due = "observe"
        self.context, self.tokens = torch.cat([self.last, tokens[:, :-1]], 1), tokens
        return self.counts[self.lanes, self.context].log()

    def observe(self):
        assert self.due == "observe"
        self.due = "logits"
        one = torch.tensor(1.0, dtype=torch.float64)
        self.counts.index_put_((self.lanes, self.context, self.tokens), one, accumulate=True)
        self.last = self.tokens[:, -1:]
"""


def train_tokenizer(texts):
    """A SentencePiece model of 300 ids on the kit's convention."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=300, byte_fallback=True,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, character_coverage=0.98, normalization_rule_name="identity",
        add_dummy_prefix=False, remove_extra_whitespaces=False, minloglevel=2)
    return model.getvalue()


def make_texts(count=25):
    """Documents of 1 to some 400 characters, not only ASCII."""
    rng = random.Random(7)
    words = "the sea was grey and a small boat came slowly towards the stone harbour wall café naïve".split()
    texts = [" ".join(rng.choices(words, k=rng.choice((1, 2, 5, 9, 20, 70)))) + rng.choice(".!\n")
             for _ in range(count)]
    return [*texts, "x", "日本語 \u2581 \0 text", "  two  spaces \r\n", "a" * 64]


def document_id(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_data(folder, texts, split="dev"):
    """A data set with one held-out split; slices `prose` and `other`."""
    rows = [{"id": document_id(text), "source": "prose" if i % 3 else "other", "text": text}
            for i, text in enumerate(texts)]
    docs = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    folder.mkdir(exist_ok=True)
    (folder / f"{split}_docs.jsonl").write_bytes(docs)
    entry = {"documents": len(texts), "raw_bytes": sum(len(text.encode()) for text in texts),
             "files": [{"name": f"{split}_docs.jsonl", "sha256": hashlib.sha256(docs).hexdigest(), "size": len(docs)}]}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "splits": {split: entry}}))


def script_module(script):
    """The names that a script defines, in this process."""
    import sys
    import types

    module = types.ModuleType("script_under_test")
    sys.modules[module.__name__] = module  # dataclasses look the module up
    exec(compile(script, "train_gpt.py", "exec"), module.__dict__)
    return module


@dataclasses.dataclass
class World:
    """A tokenizer, a data set and a model that all tests share."""

    data: object
    folder: object
    tokenizer: Tokenizer
    texts: list
    weights: dict

    def artifact(self, script=SCRIPT, decode=DECODE, config=None, weights=None, name="model.golf"):
        """Path of an artifact of this script."""
        coded = io.BytesIO()
        np.savez(coded, **(self.weights if weights is None else weights))
        path = self.folder / name
        container.write(path, {"CODE": container.code_pack(script, decode), "CONF": container.config_pack(config or {}),
                               "TOKN": tokenizer_section.serialise(self.tokenizer.model_bytes),
                               "WGTS": coded.getvalue()})
        return str(path)

    def score(self, artifact, processes=1, **options):
        return scoring_score.score(artifact, str(self.data), "dev", processes, **options)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder, texts = tmp_path_factory.mktemp("world"), make_texts()
    tokenizer = Tokenizer(train_tokenizer(texts[:25]))
    assert tokenizer.vocab_size == 300
    write_data(folder / "data", texts)
    torch.manual_seed(1)
    module = script_module(SCRIPT)
    weights = {name: tensor.numpy() for name, tensor in module.build_model(module.Config()).state_dict().items()}
    return World(folder / "data", folder, tokenizer, texts, weights)


def lanes_of(world):
    return [[*world.tokenizer.encode(text).tolist(), 1] for text in world.texts]


def plain_evaluation(world, window):
    """Nats per document, window by window, one document at a time, in this process."""
    module = script_module(SCRIPT)
    model = module.build_model(module.Config())
    model.load_state_dict({name: torch.from_numpy(array) for name, array in world.weights.items()})
    nats = []
    for symbols in lanes_of(world):
        context, total = [1, *symbols], 0.0
        for begin in range(0, len(symbols), window):
            targets = symbols[begin:begin + window]
            with torch.no_grad():
                logits = model(torch.tensor([context[begin:begin + len(targets)]]))[0].double()
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="sum"))
        nats.append(total)
    return np.array(nats)


@pytest.mark.parametrize("processes, batch_tokens", [(1, 8192), (2, 24), (1, 1)])
def test_equals_plain_evaluation_whatever_the_batches_and_processes(world, monkeypatch, processes, batch_tokens):
    monkeypatch.setattr(passes, "BATCH_TOKENS", batch_tokens)
    result = world.score(world.artifact(), processes)
    expected = plain_evaluation(world, 8)
    assert np.allclose([row["nats"] for row in result["per_document"]], expected, rtol=1e-6)
    raw_bytes = sum(len(text.encode()) for text in world.texts)
    assert result["bpb"] == pytest.approx(expected.sum() / math.log(2) / raw_bytes, rel=1e-7)
    assert (result["raw_bytes"], result["documents"], result["scope"]) == (raw_bytes, len(world.texts), "document")
    assert result["tokens"] == sum(map(len, lanes_of(world)))
    assert result["bpb_interval"][0] < result["bpb"] < result["bpb_interval"][1]
    assert result["processes"] == processes == len(result["ledger"])
    assert [row["id"] for row in result["per_document"]] == list(map(document_id, world.texts))
    for name in ("prose", "other"):
        rows = [row for row in result["per_document"] if row["source"] == name]
        part = result["slices"][f"source {name}"]
        assert part["documents"] == len(rows) and part["raw_bytes"] == sum(row["raw_bytes"] for row in rows)
        assert part["bpb"] == pytest.approx(sum(row["nats"] for row in rows) / math.log(2) / part["raw_bytes"])
        assert part["bpb_interval"][0] < part["bpb"] < part["bpb_interval"][1]
    for kind in ("source", "length", "position", "non-ascii"):
        parts = [part for name, part in result["slices"].items() if name.startswith(kind)]
        assert len(parts) > 1 and sum(part["raw_bytes"] for part in parts) == raw_bytes
        assert sum(part["nats"] for part in parts) == pytest.approx(expected.sum(), abs=0.01)


def test_config_reaches_the_script(world):
    """seq_len from the artifact's CONF changes the windows, and so the score."""
    result = world.score(world.artifact(config={"seq_len": 13}))
    assert np.allclose([row["nats"] for row in result["per_document"]], plain_evaluation(world, 13), rtol=1e-6)


@pytest.mark.parametrize("scope", ["document", "stream"])
def test_adaptive_scorer_equals_counting_in_plain_python(world, scope):
    result = world.score(world.artifact(ADAPTIVE.replace("SCOPE", scope)), processes=2)
    counts, expected = {}, []
    for symbols in lanes_of(world):
        if scope == "document":
            counts = {}
        context, total = [1, *symbols], 0.0
        for begin in range(0, len(symbols), 5):
            pairs = list(zip(context[begin:begin + 5], symbols[begin:begin + 5]))
            for a, b in pairs:  # first the whole chunk's score, then the update
                total -= math.log(counts.get((a, b), 1) / (300 + sum(counts.get((a, c), 1) - 1 for c in range(300))))
            for pair in pairs:
                counts[pair] = counts.get(pair, 1) + 1
        expected.append(total)
    assert np.allclose([row["nats"] for row in result["per_document"]], expected, rtol=1e-6)
    assert result["scope"] == scope


BROKEN = {
    "exits at import": ("import sys; sys.exit(0)", "crash", "SystemExit"),
    "vanishes": ("import os; print('bye\\x1b[2J'); os._exit(3)", "crash", "exit status 3.*last line: bye"),
    "segfault": ("import ctypes; ctypes.string_at(0)", "crash", "SIGSEGV"),
    "dies and leaves a child that holds the pipes": (
        "import os, time\nif os.fork() == 0:\n    time.sleep(3600)\nos._exit(4)",
        "crash", "exit status 4|PermissionError"),  # with seccomp it cannot even start
    "hangs": ("import time; Model.forward = lambda self, tokens: time.sleep(3600)", "hang", "time limit of 8 s"),
    "NaN": ("Model.forward = lambda self, t: torch.full((*t.shape, 300), float('nan'))",
            "not-a-number", "NaN or infinity at symbol 0"),
    "probability zero": ("Model.forward = lambda self, t: F.one_hot(t * 0, 300).float().log()",
                         "not-a-number", "probability zero"),
    "wrong shape": ("Model.forward = lambda self, t: torch.zeros(*t.shape, 299)", "shape", r"299\], not \[.*300\]"),
    "prints without end": ("while True:\n    print('x' * 100000)", "flood", "printed more than"),
    "writes into the channel": (
        "import json, os, sys\nos.write(json.loads(sys.argv[-1])['reply_fd'], b'\\xff' * 64)",
        "protocol", "a message of"),
    "wrong weights": ("Config = dataclasses.make_dataclass('Config', [('vocab_size', int, 299), ('width', int, 16)])",
                      "crash", "building the model: RuntimeError.*size mismatch"),
    "unknown scope": ("class Scorer:\n    scope, chunk = 'world', 4\n    def __init__(self, *_): pass",
                      "protocol", "scope 'world'"),
    "huge chunk": ("class Scorer:\n    scope, chunk = 'none', 10 ** 9\n    def __init__(self, *_): pass",
                   "protocol", "chunk 1000000000"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_artifact_ends_in_one_verdict_and_leaves_nothing(world, name, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, kind, text = BROKEN[name]
    artifact = world.artifact(f"{SCRIPT}\n{code}\n", name="broken.golf")
    with pytest.raises(box.BoxFailure, match=f"(?s)FAILED .*{text}") as caught:
        world.score(artifact, processes=1, time_limit=8 if kind == "hang" else 120)
    assert caught.value.kind == kind
    assert str(caught.value).isprintable()  # one line, nothing that steers a terminal
    assert not os.listdir(tmp_path) and not box_processes(tmp_path)


def box_processes(folder):
    """Command lines of running boxes below a temporary folder (Linux; elsewhere nothing is seen)."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                text = file.read()
        except OSError:
            continue
        if f"{folder}/golf-box-".encode() in text:
            found.append(text)
    return found


def test_broken_decoder_and_damaged_file(world, tmp_path):
    decode = "def decode_weights(payload):\n    raise ValueError('row 3 is damaged')\n"
    artifact = world.artifact(decode=decode, name="broken.golf")
    with pytest.raises(box.BoxFailure, match="decoding the weights: ValueError: row 3 is damaged"):
        world.score(artifact)
    damaged = tmp_path / "damaged.golf"
    with open(world.artifact(), "rb") as file:
        data = file.read()
    damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ScoringError, match="checksum"):
        world.score(str(damaged))


PROBES = {
    "environment": """
import os
assert "GOLF_TEST_SECRET" not in os.environ, "the scorer's environment reached the box"
assert os.environ["OMP_WAIT_POLICY"] == "passive" and len(os.environ) < 12, sorted(os.environ)
""",
    "directory": """
import os, sys
assert sorted(os.listdir()) == ["__pycache__", "config.json", "decode.py", "train_gpt.py", "weights.bin"], os.listdir()
assert not {name.split(".")[0] for name in sys.modules} & {"scoring", "compress", "tools"}, "imports the repository"
import importlib.util
assert importlib.util.find_spec("scoring") is None, "the box can import the repository"
assert os.path.samefile(os.path.dirname(__file__), os.getcwd()), __file__
""",
    "descriptors": """
import json, os, sys
options = json.loads(sys.argv[-1])
own = {0, 1, 2, options["command_fd"], options["reply_fd"], options["memory_fd"]}
if os.path.isdir("/proc/self/fd"):
    others = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) not in own
              and os.path.exists(f"/proc/self/fd/{fd}")]
    assert not [name for name in others if "secret" in name], others
""",
    "memory": """
import json, os, sys
if sys.platform == "linux":
    try:
        os.ftruncate(json.loads(sys.argv[-1])["memory_fd"], 0)
    except PermissionError:
        pass
    else:
        raise AssertionError("the shared memory could be cut")
""",
    "core and files": """
import resource
assert resource.getrlimit(resource.RLIMIT_CORE)[1] == 0
try:
    open("big", "wb").truncate(1 << 30)
except OSError:
    pass
else:
    raise AssertionError("a file of 1 GiB")
""",
}


def test_box_sees_nothing_of_the_scorer(world, monkeypatch, tmp_path):
    """All probes in one artifact; a probe that finds something raises, which would fail the score."""
    monkeypatch.setenv("GOLF_TEST_SECRET", "1")
    with open(tmp_path / "secret", "wb") as secret:
        os.set_inheritable(secret.fileno(), True)
        result = world.score(world.artifact(SCRIPT + "".join(PROBES.values()), name="probe.golf"))
    layers = {row["layer"]: row["active"] for row in result["sandbox"]}
    assert layers["no core dumps"] and layers["own session, no inherited descriptors, empty environment"]


def test_box_has_no_network_where_the_layer_is_active(world):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        probe = f"""
import socket
try:
    socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 2)
except OSError:
    pass
"""
        result = world.score(world.artifact(SCRIPT + probe, name="probe.golf"))
        active = {row["layer"]: row["active"] for row in result["sandbox"]}["network namespace"]
        if active:
            with pytest.raises(BlockingIOError):
                server.accept()
        else:
            server.accept()[0].close()  # the table says that the network is open, and it is


@given(st.integers(0, 10 ** 6), st.integers(2, 40), st.floats(0, 60))
def test_token_nats_equals_log_softmax(seed, vocab_size, scale):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((9, vocab_size))).astype(np.float32)
    tokens = rng.integers(0, vocab_size, 9)
    expected = -torch.from_numpy(logits).double().log_softmax(dim=1).numpy()[np.arange(9), tokens]
    assert np.allclose(likelihood.token_nats(logits, tokens), expected, rtol=1e-12, atol=1e-12)


def test_token_nats_over_block_borders_and_bad_rows(monkeypatch):
    monkeypatch.setattr(likelihood, "BLOCK_LOGITS", 10)
    logits = np.log(np.arange(1, 41, dtype=np.float32).reshape(8, 5))
    logits[4, 0], logits[5], logits[6, 2], logits[7, 1] = np.nan, -np.inf, -np.inf, np.inf
    nats = likelihood.token_nats(logits, np.array([0, 1, 2, 3, 4, 0, 2, 1]))
    rows = np.arange(1, 41).reshape(8, 5)
    assert np.allclose(nats[:4], [-math.log(rows[i, i] / rows[i].sum()) for i in range(4)])
    assert np.isnan(nats[[4, 5, 7]]).all() and nats[6] == np.inf


def test_ledger_takes_a_symbol_once_and_chains():
    ledger, other = likelihood.Ledger([3, 2]), likelihood.Ledger([3, 2])
    ledger.commit(0, 0, 0, np.array([1.0, 2.0]))
    assert np.isnan(ledger.document_nats()).all()  # incomplete documents have no score
    for document, begin, count in ((0, 1, 1), (1, 1, 2)):
        with pytest.raises(RuntimeError, match="outside the document, or committed twice"):
            ledger.commit(0, document, begin, np.ones(count))
    ledger.commit(0, 0, 2, np.array([4.0]))
    ledger.commit(0, 1, 0, np.array([0.5, 0.25]))
    assert ledger.document_nats().tolist() == [7.0, 0.75]
    for document, begin, values in ((0, 0, [1.0, 2.0]), (0, 2, [4.0]), (1, 0, [0.5, 0.25 + 2 ** -50])):
        other.commit(0, document, begin, np.array(values))
    assert ledger.heads[0] != other.heads[0]  # the last bit of a number, and nothing else, differs


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.integers(1, 64), st.integers(1, 500))
def test_plan_holds_every_document_once_within_the_bound(lengths, chunk, batch_tokens):
    batches = passes.plan(lengths, chunk, "document", batch_tokens)
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[number] for number in batch)
        assert len(batch) * min(chunk, longest) <= max(batch_tokens, min(chunk, longest))
        windows = [math.ceil(lengths[number] / chunk) for number in batch]
        assert min(windows) >= 0.75 * max(windows)
    assert passes.plan(lengths, chunk, "stream", batch_tokens) == [[number] for number in range(len(lengths))]


def test_lossless_check_names_the_document(world):
    def document(text, tokens):
        return passes.Document(f"id of {text}", "prose", text, len(text.encode()), tokens=tokens)

    good = document("sea wall", np.append(world.tokenizer.encode("sea wall").astype(np.int64), 1))
    lossless.check(world.tokenizer, [good, document("", np.array([1]))])
    lower = document("Sea wall", good.tokens)  # as a tokenizer that folds case would give it
    with pytest.raises(ScoringError, match="id of Sea wall"):
        lossless.check(world.tokenizer, [good, lower])


def test_lossless_process_gets_no_text(world, monkeypatch):
    """What the decoding process is given holds ids and the model, and its answer holds hashes."""
    calls = []
    run = lossless.subprocess.run
    monkeypatch.setattr(lossless.subprocess, "run",
                        lambda *args, **options: calls.append(options) or run(*args, **options))
    text = "an unmistakable sentence"
    answer = lossless.hashes(world.tokenizer.model_bytes, [world.tokenizer.encode(text)])
    assert answer == [hashlib.sha256(text.encode()).hexdigest()]
    assert text.encode() not in calls[0]["input"] and not any(text in value for value in calls[0]["env"].values())


@given(st.binary(max_size=200))
def test_any_bytes_from_a_box_end_in_a_clean_error(data):
    reader, writer = os.pipe()
    try:
        os.write(writer, data)
        os.close(writer)
        with pytest.raises((EOFError, protocol.ProtocolError)):
            while True:
                message = protocol.receive(reader)
                assert isinstance(message["op"], str)
    finally:
        os.close(reader)


def test_messages_arrive_and_waiting_ends():
    reader, writer = os.pipe()
    protocol.send(writer, op="chunk", lanes=3)
    assert protocol.receive(reader, deadline=time.monotonic() + 60) == {"op": "chunk", "lanes": 3}
    with pytest.raises(TimeoutError):
        protocol.receive(reader, deadline=0.0)
    os.write(writer, (protocol.MAX_FRAME + 1).to_bytes(4, "little"))
    with pytest.raises(protocol.ProtocolError, match="65,537 bytes"):
        protocol.receive(reader)
    os.close(reader)
    os.close(writer)


def test_limits_are_what_they_say(world):
    """The box reports each layer of confine.py with a note where it is missing, and none twice."""
    submission = scoring_score.read_artifact(world.artifact())[0]
    running = box.Box(submission, threads=1, time_limit=120)
    try:
        running.load()
        names = [row["layer"] for row in running.layers]
        assert len(set(names)) == len(names) == 19
        assert all(row["active"] or row["note"] for row in running.layers)
        if os.path.isdir("/proc"):
            with open(f"/proc/{running.process.pid}/limits") as file:
                limits = file.read()
            assert f"Max file size             {confine.MAX_FILE_BYTES} " in limits
            assert f"Max open files            {confine.MAX_OPEN_FILES} " in limits
    finally:
        running.close()
    assert not os.path.exists(running.directory)
