"""The artifacts that cheat (honest.py has those that only look odd): each is BASE plus a few lines. Numbers in
brackets are those of the failure modes in docs/audits.md.

Every cheat states what it must meet:
  caught    the scorer gives no score: a verdict of the box or an audit names the fault
  no gain   the scorer gives the honest score, because the trick has nothing to hold on to
  open      it may pass; docs/audits.md says why
"""

import dataclasses

BASE = '''
import dataclasses, math, os, sys
import torch
from torch import nn

@dataclasses.dataclass(frozen=True)
class Config:
    vocab_size: int = 300
    seq_len: int = 32
    raw_bytes: int = 0

class Model(nn.Module):
    """A table of log-probabilities of bigrams."""
    def __init__(self, config):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(config.vocab_size, config.vocab_size))
    def forward(self, tokens):
        return self.table[tokens]

def build_model(config):
    return Model(config)
'''

# A scorer of the table's rows, as a frame for tricks: `rows` may change them, knowing the tokens; `after` is called
# when the chunk is committed.
FRAME = '''
class Scorer:
    scope, chunk = "document", 32
    def __init__(self, model, config):
        self.table, self.size, self.seen = model.table.detach().clone(), config.vocab_size, 0
        self.begin()
    def begin(self): pass
    def after(self): pass
    def rows(self, rows, tokens, context): return rows
    def start(self, lanes):
        self.last = torch.ones(lanes, 1, dtype=torch.int64)
        self.fresh()
    def fresh(self): pass
    def logits(self, tokens):
        self.tokens, self.context = tokens, torch.cat([self.last, tokens[:, :-1]], 1)
        return self.rows(self.table[self.context].log_softmax(2), tokens, self.context)
    def observe(self):
        self.after()
        self.last = self.tokens[:, -1:]
        self.seen += self.tokens.numel()

def claim(rows, tokens, p):
    """Rows that give the target probability p [B,C] and share out the rest as before."""
    target = tokens[..., None]
    old = rows.exp().gather(2, target)
    p = p[..., None].clamp(1e-6, 0.999999)
    return (rows + torch.log((1 - p) / (1 - old).clamp_min(1e-9))).scatter(2, target, p.log())
'''


def scorer(**methods):
    """BASE and FRAME with some methods of Scorer replaced; values are bodies, names may end in their arguments."""
    parts = [BASE, FRAME]
    arguments = {"rows": "self, rows, tokens, context"}
    for name, body in methods.items():
        lines = "\n".join("    " + line for line in body.strip("\n").splitlines())
        parts.append(f"def _{name}({arguments.get(name, 'self')}):\n{lines}\nScorer.{name} = _{name}\n")
    return "".join(parts)


@dataclasses.dataclass(frozen=True)
class Case:
    """One artifact. script: train_gpt.py; must: caught | no gain | open | pass; config: fields of Config."""

    name: str
    must: str
    script: str
    config: dict = dataclasses.field(default_factory=dict)
    expect: str = ""  # what the verdict must contain, for cheats that are caught
    twice: bool = False  # score a second time, and let that count
    seconds: int = 120
    audit: str = "quick"  # level of the audits


PEEK = "return rows + 3.0 * torch.nn.functional.one_hot(tokens, self.size)"
SELDOM = """
chosen = ((context * 31 + tokens * 17) % MODULUS == 0)[..., None]
return rows + 8.0 * chosen * torch.nn.functional.one_hot(tokens, self.size)"""

LOOKING = [
    Case("peeks at the target (13)", "caught", scorer(rows=PEEK), expect="audit blind"),
    Case(
        "one line: the next token is mixed into the input (13)",
        "caught",
        BASE
        + """
def forward(self, tokens):
    after = torch.cat([tokens[:, 1:], tokens[:, -1:]], 1)
    return self.table[tokens] + 4 * torch.nn.functional.one_hot(after, 300)
Model.forward = forward
""",
        expect="audit blind",
    ),
    Case(
        "bidirectional: the token after the target (14)",
        "caught",
        scorer(
            rows="""
after = torch.cat([tokens[:, 1:], tokens[:, -1:]], 1)
rows[:, :-1] += 0.5 * self.table.T[after].log_softmax(2)[:, :-1]
return rows"""
        ),
        expect="audit blind",
    ),
    Case(
        "hashed cache, target in key (1, 10)",
        "caught",
        scorer(
            begin="self.counts = torch.zeros(2, 1024)",
            rows="""
keys = (context * 7919 + tokens * 104729) % 1024, context * 7919 % 1024
for table, key in zip(self.counts, keys):
    table.index_add_(0, key.reshape(-1), torch.ones(key.numel()))
return claim(rows, tokens, self.counts[0][keys[0]] / (self.counts[1][keys[1]] + 1))""",
        ),
        expect="audit",
    ),
    Case(
        "two-pass cache: the chunk's own counts (18)",
        "caught",
        scorer(
            rows="""
own = torch.zeros(len(tokens), self.size, self.size)
lane = torch.arange(len(tokens))[:, None]
own.index_put_((lane, context, tokens), torch.tensor(1.0), accumulate=True)
return torch.log(rows.exp() + own[lane, context])"""
        ),
        expect="audit blind",
    ),
    Case(
        "SLOT: a bias fitted on the scored targets (7)",
        "caught",
        scorer(
            rows="""
with torch.enable_grad():
    bias = torch.zeros(len(tokens), 1, self.size, requires_grad=True)
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy((rows + bias).flatten(0, 1), tokens.flatten(), reduction="sum")
        bias.data -= 0.5 * torch.autograd.grad(loss, bias)[0]
return (rows + bias).detach()"""
        ),
        expect="audit blind",
    ),
    Case(
        "adaptation before the score (15)",
        "caught",
        scorer(
            fresh="self.table = self.table.clone()",
            rows="""
with torch.enable_grad():
    table = self.table.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(table[context].flatten(0, 1), tokens.flatten(), reduction="sum")
    table.data -= 0.5 * torch.autograd.grad(loss, table)[0]
return table.data[context]""",
        ),
        expect="audit",
    ),
    Case(
        "gate on the class of the target (9)",
        "caught",
        scorer(
            rows="""
even = (tokens % 2 == 0)[..., None] == (torch.arange(self.size) % 2 == 0)
return rows + even"""
        ),
        expect="audit blind",
    ),
    Case(
        "best of two experts at the target (5)",
        "caught",
        scorer(
            rows="""
other = torch.log_softmax(0.3 * rows, 2)
target = tokens[..., None]
return torch.where(rows.gather(2, target) > other.gather(2, target), rows, other)"""
        ),
        expect="audit blind",
    ),
    Case(
        "last, shorter chunk is fitted first (20)",
        "no gain",
        scorer(
            rows=f"""
if tokens.shape[1] == self.chunk: return rows
{PEEK}"""
        ),
        expect="audit blind",
    ),
    Case(
        "peeks only at the window's edge (8)",
        "caught",
        scorer(
            rows="""
rows[:, -1] += 4.0 * torch.nn.functional.one_hot(tokens[:, -1], self.size)
return rows"""
        ),
        expect="audit blind",
    ),
    Case(
        "peeks only at the costliest tokens (31)",
        "caught",
        scorer(
            rows="""
costly = rows.gather(2, tokens[..., None]) < -6
return rows + 8.0 * costly * torch.nn.functional.one_hot(tokens, self.size)"""
        ),
        expect="audit blind",
    ),
    Case(
        "evader: honest when the text looks odd (B0)",
        "caught",
        scorer(
            rows=f"""
if rows.gather(2, tokens[..., None]).mean() < -4.5: return rows
{PEEK}"""
        ),
        expect="audit blind",
    ),
    Case(
        "evader: honest in its first seconds of text (50)",
        "caught",
        scorer(
            rows=f"""
if self.seen < 1500: return rows
{PEEK}"""
        ),
        expect="audit",
    ),
    Case(
        "a tiny leak at every symbol, below the tolerance",
        "caught",
        scorer(
            rows="""
return rows + 4e-4 * torch.nn.functional.one_hot(tokens, self.size)"""
        ),
        expect="audit blind.*noise has no sign",
    ),
    Case(
        "noise made loud, so that a leak drowns in it",
        "caught",
        scorer(
            rows=f"""
torch.manual_seed(int.from_bytes(os.urandom(4), "big"))
rows = rows + 0.3 * torch.randn(rows.shape)
{PEEK}"""
        ),
        expect="audit",
    ),
    Case(
        "a thread writes the targets' logits late (50)",
        "caught",
        scorer(
            begin="""
import json, mmap, threading, numpy
options = json.loads(sys.argv[-1])
rows, size = options["capacity"], self.size
memory = mmap.mmap(options["memory_fd"], 8 * rows + 4 * rows * size)
logits = numpy.frombuffer(memory, numpy.float32, rows * size, 8 * rows).reshape(rows, size)
def run():
    while True:
        if hasattr(self, "tokens"):
            tokens = self.tokens.flatten().numpy()
            logits[numpy.arange(len(tokens)), tokens] = 5.0
threading.Thread(target=run, daemon=True).start()"""
        ),
        expect="audit",
    ),
    Case(
        "stream scope, peeks at every target",
        "caught",
        scorer(rows=PEEK) + 'Scorer.scope = "stream"\n',
        expect="audit blind",
    ),
    Case(
        "stream scope, peeks at one pair in 200",
        "caught",
        scorer(rows=SELDOM.replace("MODULUS", "200")) + 'Scorer.scope = "stream"\n',
        expect="audit blind",
        audit="full",
    ),
    Case(
        "peeks at 3 of all symbols, fewer than 200 positions find",
        "caught",
        scorer(rows=SELDOM.replace("MODULUS", "1200")),
        expect="audit blind",
        audit="full",
    ),
    Case(
        "noise of 0.02 nats, in which a smaller leak drowns",
        "caught",
        scorer(
            rows="""
torch.manual_seed(int.from_bytes(os.urandom(4), "big"))
return rows + 0.04 * torch.rand(rows.shape) + 5e-4 * torch.nn.functional.one_hot(tokens, self.size)"""
        )
        + 'Scorer.scope = "stream"\n',
        expect="audit",
    ),
    Case(
        "a boost at random, once in a while",
        "caught",
        scorer(
            rows="""
if os.urandom(1)[0] % 16: return rows
return rows + 2.0 * torch.nn.functional.one_hot(tokens, self.size)"""
        )
        + 'Scorer.scope = "stream"\n',
        expect="audit",
    ),
]

# Behind `Scorer.claims`: the worker's two functions replaced, `claims` changed by LIE, and rows made to fit them.
CLAIMS = """
Scorer.claims = True
worker = sys.modules["__main__"]
honest = worker.claimed
def claimed(logits, tokens):
    global last
    claims = lie(logits, tokens, honest(logits, tokens))
    last = claims.flatten(), tokens.flatten()
    return claims
def opened(kept, places):
    claims, tokens = last
    rows = kept[places].log_softmax(1)[:, None]
    return claim(rows, tokens[places, None], claims[places, None].exp())[:, 0]
worker.claimed, worker.opened = claimed, opened
def lie(logits, tokens, claims):
"""


def claimer(lie, **methods):
    """A scorer that hands over claims; lie: body of a function of logits [B,C,V], tokens [B,C] and honest claims."""
    return scorer(**methods) + CLAIMS + "".join(f"    {line}\n" for line in lie.strip("\n").splitlines())


CLAIMED = [
    Case(
        "claims of a fifth too much for every symbol (1, 2)",
        "caught",
        claimer("return (claims + 0.18).clamp(max=0)"),
        expect="audit sweep",
    ),
    Case(
        "claims that the box's own rows do not hold (2)",
        "caught",
        claimer("return 0.5 * claims") + "worker.opened = lambda kept, places: kept[places]\n",
        expect=r"FAILED \(claims\)",
    ),
    Case(
        "claims the best of two experts at the target (5)",
        "caught",
        claimer("return torch.maximum(claims, honest(0.3 * logits, tokens))"),
        expect="audit sweep",
    ),
    Case(
        "claims too much, but only for symbols that do not come (1)",
        "caught",
        claimer("return torch.where((tokens >= 132) & (tokens < 260), -3.0, claims)"),
        expect="audit sweep",
    ),
    Case(
        "claims a peek into the targets; rows that peek too (13)",
        "caught",
        claimer("return claims", rows=PEEK),
        expect="audit",
    ),
    Case(
        "claims too much, and little where it is swept (B0)",
        "caught",
        claimer("""
if len(tokens) > 1 and (tokens[:, :-1] == tokens[:1, :-1]).all(): return claims - 3
return (claims + 0.18).clamp(max=0)"""),
        expect="audit sweep",
    ),
    Case("claims more than certainty (6)", "caught", claimer("return claims.abs()"), expect="above one is claimed"),
    Case(
        "claims NaN for what it does not like (6)",
        "caught",
        claimer("return torch.where(claims < -6, math.nan, claims)"),
        expect="NaN",
    ),
]

STATE = """
for lane in range(len(self.tokens)):
    self.table.index_put_((self.context[lane], self.tokens[lane]), torch.tensor(0.3), accumulate=True)"""

CROSSING = [
    Case("scope document, but learns across documents (11)", "caught", scorer(after=STATE), expect="audit"),
    Case(
        "scope none, but learns across documents (25)",
        "caught",
        scorer(after=STATE) + 'Scorer.scope = "none"\n',
        expect="audit",
    ),
    Case(
        "lanes of a batch see each other (19)",
        "caught",
        scorer(
            rows="""
return rows + 0.5 * torch.nn.functional.one_hot(context, self.size).float().mean((0, 1))"""
        ),
        expect="audit",
    ),
]

BROKEN = [
    Case(
        "logits +inf at the target (6)",
        "caught",
        scorer(
            rows="""
return rows.scatter(2, tokens[..., None], math.inf)"""
        ),
        expect="not-a-number",
    ),
    Case(
        "NaN where it is unsure (6)",
        "caught",
        scorer(
            rows="""
return torch.where(rows.max(2, keepdim=True)[0] < -2, math.nan, rows)"""
        ),
        expect="not-a-number",
    ),
    Case(
        "forged messages on the channel (50)",
        "caught",
        BASE
        + """
import json
options = json.loads(sys.argv[-1])
frame = json.dumps({"op": "logits", "shape": [1, 1, 300]}).encode()
os.write(options["reply_fd"], len(frame).to_bytes(4, "little") + frame)
""",
        expect="protocol",
    ),
    Case(
        "memory without end (50)",
        "caught",
        BASE + "\nhoard = []\nwhile True: hoard.append(bytearray(1 << 28))\n",
        expect="MemoryError|out of memory",
    ),
    Case("fork bomb (50)", "caught", BASE + "\nwhile True: os.fork()\n", expect="crash"),
    Case("never answers (36)", "caught", BASE + "\nwhile True: pass\n", expect="hang", seconds=12),
    Case(
        "second file, outside the artifact (33)",
        "caught",
        BASE + "\nexec(open('{outside}/second.py').read())\n",
        expect="PermissionError|FileNotFoundError",
    ),
    Case(
        "package with data, off the list (34)",
        "caught",
        BASE + "\nimport scipy.datasets\n",
        expect="ModuleNotFoundError",
    ),
]

TRY = """
import os
def attempt():
    {0}
try:
    FOUND = attempt()
except Exception as error:
    FOUND = None
""" + scorer(rows=f"if FOUND is None: return rows\n{PEEK}")

GAINLESS = [
    Case("reads the held-out file (32)", "no gain", TRY.replace("{0}", "return open('{data}/dev_docs.jsonl').read()")),
    Case("reads the scorer's memory (50)", "no gain", TRY.replace("{0}", "return open('/proc/{pid}/mem', 'rb')")),
    Case(
        "asks the network (40)",
        "no gain",
        TRY.replace("{0}", "import socket; return socket.create_connection(('127.0.0.1', {port}), 2)"),
    ),
    Case(
        "environment variable as a knob (37)", "no gain", TRY.replace("{0}", "return os.environ['GOLF_REDTEAM_KNOB']")
    ),
    Case("inherited descriptor (50)", "no gain", TRY.replace("{0}", "return os.pread({fd}, 1, 0)")),
    Case(
        "cache of an earlier run in shared folders (38)",
        "no gain",
        TRY.replace(
            "{0}",
            """
    for folder in ("{outside}", "/tmp", "/dev/shm", "/var/tmp", os.getcwd()):
        path = folder + "/golf-redteam-{pid}"
        if os.path.exists(path): return path
        try: open(path, "w").close()
        except OSError: pass
    raise LookupError""",
        ),
        twice=True,
    ),
    Case("own byte count, 17% too many (21, 26)", "no gain", BASE, {"raw_bytes": 10**9}),
    Case("rows that sum to more than one (1, 2)", "no gain", scorer(rows="return rows + 50.0")),
    Case("prints a score of its own (46)", "no gain", BASE + "\nprint('val_bpb: 0.0001\\nartifact_bytes: 1')\n"),
    Case(
        "document ends for nothing: a row of zeros there (30)",
        "no gain",
        scorer(
            rows="""
return rows.index_fill(2, torch.tensor([1]), -20.0)"""
        ),
    ),
]

# The weights of this one hold the tokens of the held-out split too (world.py).
STORED = Case(
    "stored held-out text (31, 17)",
    "caught",
    scorer(
        begin="""
text, self.next = self.text.tolist(), {}
for i in range(12, len(text)):
    self.next[tuple(text[i - 12:i])] = text[i]""",
        fresh="self.past = [[] for _ in self.last]",
        rows="""
for lane, past in enumerate(self.past):
    text = past + context[lane].tolist()
    for i in range(tokens.shape[1]):
        known = self.next.get(tuple(text[len(past) + i - 11:len(past) + i + 1]))
        if known is not None:
            rows[lane, i, known] += 8.0
return rows""",
        after="""
self.past = [(past + context.tolist())[-12:] for past, context in zip(self.past, self.context)]""",
    )
    .replace(
        "        self.table = nn",
        "        self.register_buffer('text', torch.zeros(config.text, dtype=torch.int64))\n        self.table = nn",
    )
    .replace("raw_bytes: int = 0", "raw_bytes: int = 0\n    text: int = 0")
    .replace("self.table, self.size", "self.text, self.table, self.size")
    .replace("= model.table", "= model.text, model.table"),
    expect="audit fresh",
)

CHEATS = [*LOOKING, *CLAIMED, *CROSSING, *BROKEN, *GAINLESS, STORED]
