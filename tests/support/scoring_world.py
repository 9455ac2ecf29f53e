"""The small world that tests of the scorer share: a tokenizer of 300 ids, a data set of 29 documents, scripts of a few
lines, and what their scores must be, computed in this process. The fixture `world` of tests/conftest.py makes it once.

Not covered: the red team's world (tests/redteam/world.py).
"""

import dataclasses
import glob
import hashlib
import io
import json
import random
import sys
import types

import numpy as np
import sentencepiece
import torch

from golf import container, tokenizer_section
from golf.tokenizer import Tokenizer
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
ADAPTIVE = (
    SCRIPT
    + """
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
)


def train_tokenizer(texts):
    """A SentencePiece model of 300 ids on the kit's convention."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        character_coverage=0.98,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return model.getvalue()


def make_texts(count=25):
    """Documents of 1 to some 400 characters, not only ASCII."""
    rng = random.Random(7)
    words = "the sea was grey and a small boat came slowly towards the stone harbour wall café naïve".split()
    texts = [
        " ".join(rng.choices(words, k=rng.choice((1, 2, 5, 9, 20, 70)))) + rng.choice(".!\n") for _ in range(count)
    ]
    return [*texts, "x", "日本語 \u2581 \0 text", "  two  spaces \r\n", "a" * 64]


def document_id(text):
    """Id of a document in the data set."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_data(folder, texts, split="dev"):
    """A data set with one held-out split; slices `prose` and `other`."""
    rows = [
        {"id": document_id(text), "source": "prose" if i % 3 else "other", "text": text} for i, text in enumerate(texts)
    ]
    docs = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    folder.mkdir(exist_ok=True)
    (folder / f"{split}_docs.jsonl").write_bytes(docs)
    entry = {
        "documents": len(texts),
        "raw_bytes": sum(len(text.encode()) for text in texts),
        "files": [{"name": f"{split}_docs.jsonl", "sha256": hashlib.sha256(docs).hexdigest(), "size": len(docs)}],
    }
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "splits": {split: entry}}))


def script_module(script):
    """The names that a script defines, in this process."""
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
        container.write(
            path,
            {
                "CODE": container.code_pack(script, decode),
                "CONF": container.config_pack(config or {}),
                "TOKN": tokenizer_section.serialise(self.tokenizer.model_bytes),
                "WGTS": coded.getvalue(),
            },
        )
        return str(path)

    def score(self, artifact, processes=1, **options):
        """eval.json's object of an artifact on all documents."""
        return scoring_score.score(artifact, str(self.data), "dev", processes, **options)


def make_world(folder):
    """A World below the folder `folder`."""
    texts = make_texts()
    tokenizer = Tokenizer(train_tokenizer(texts[:25]))
    assert tokenizer.vocab_size == 300
    write_data(folder / "data", texts)
    torch.manual_seed(1)
    module = script_module(SCRIPT)
    weights = {name: tensor.numpy() for name, tensor in module.build_model(module.Config()).state_dict().items()}
    return World(folder / "data", folder, tokenizer, texts, weights)


def lanes_of(world):
    """The symbols of each document, the end symbol included."""
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
            targets = symbols[begin : begin + window]
            with torch.no_grad():
                logits = model(torch.tensor([context[begin : begin + len(targets)]]))[0].double()
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="sum"))
        nats.append(total)
    return np.array(nats)


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
