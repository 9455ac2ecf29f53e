"""Honest artifacts that look odd: each must get its score. cases.py has the cheats."""

from tests.redteam.cases import BASE, Case, scorer

ADAPT = """
lane = torch.arange(len(self.tokens))[:, None]
self.counts.index_put_((lane, self.context, self.tokens), torch.tensor(1.0), accumulate=True)"""
MIX = """
lane = torch.arange(len(tokens))[:, None]
counts = self.counts[lane, context]
total = counts.sum(2, keepdim=True)
return torch.log((rows.exp() * 20 + counts) / (20 + total))"""

HONEST = [
    Case("plain table", "pass", BASE),
    Case(
        "renormalised n-gram mixing, counts of the document",
        "pass",
        scorer(fresh="self.counts = torch.zeros(len(self.last), self.size, self.size)", rows=MIX, after=ADAPT),
    ),
    Case(
        "score first, then adapt, over the stream",
        "pass",
        scorer(begin="self.counts = torch.zeros(1, self.size, self.size)", rows=MIX, after=ADAPT)
        + 'Scorer.scope = "stream"\n',
    ),
    Case(
        "gradient steps on committed text of the document",
        "pass",
        scorer(
            fresh="self.bias = torch.zeros(len(self.last), 1, self.size)",
            rows="return rows + self.bias",
            after="""
with torch.enable_grad():
    bias = self.bias.clone().requires_grad_()
    rows = self.table[self.context].log_softmax(2) + bias
    loss = torch.nn.functional.cross_entropy(rows.flatten(0, 1), self.tokens.flatten(), reduction="sum")
    self.bias = self.bias - 0.02 * torch.autograd.grad(loss, bias)[0]""",
        ),
    ),
    Case(
        "sliding windows over revealed text",
        "pass",
        scorer(
            fresh="self.past = torch.ones(len(self.last), 1, dtype=torch.int64)",
            rows="""
text = torch.cat([self.past, tokens[:, :-1]], 1)[:, -64:]
often = torch.nn.functional.one_hot(text, self.size).float().cumsum(1)[:, -tokens.shape[1]:]
return rows + 0.1 * torch.log1p(often)""",
            after="self.past = torch.cat([self.past, self.tokens], 1)[:, -33:]",
        ),
    ),
    Case(
        "noisy kernels, 5e-5 nats",
        "pass",
        scorer(
            rows="""
torch.manual_seed(int.from_bytes(os.urandom(4), "big"))
return rows + 5e-5 * torch.randn(rows.shape)"""
        ),
    ),
    Case("half precision", "pass", scorer(rows="return rows.bfloat16()")),
    Case(
        "gate on its own entropy, target unseen",
        "pass",
        scorer(
            rows="""
entropy = -(rows.exp() * rows).sum(2, keepdim=True)
return torch.where(entropy > 3, 0.9 * rows, rows)"""
        ),
    ),
    Case("claims, as the worker makes them from rows", "pass", scorer() + "Scorer.claims = True\n"),
    Case(
        "claims in half precision, adapting over the stream",
        "pass",
        scorer(begin="self.counts = torch.zeros(1, self.size, self.size)", rows=MIX + ".bfloat16()", after=ADAPT)
        + 'Scorer.scope, Scorer.claims = "stream", True\n',
    ),
    Case("one symbol a call", "pass", scorer() + "Scorer.chunk = 1\n"),
    Case("three symbols a call, over the stream", "pass", scorer() + 'Scorer.chunk, Scorer.scope = 3, "stream"\n'),
    Case("a document a call", "pass", scorer() + "Scorer.chunk = 4096\n"),
    Case("scope none", "pass", scorer() + 'Scorer.scope = "none"\n'),
    Case(
        "rows in float64, and not contiguous",
        "pass",
        scorer(rows="rows = rows.double().transpose(0, 1).contiguous()\nreturn rows.transpose(0, 1)"),
    ),
    Case("rows with a constant on top", "pass", scorer(rows="return rows + 100.0 * (context % 3)[..., None]")),
    Case(
        "the end symbol is likelier the longer the document is",
        "pass",
        scorer(
            fresh="self.place = 0",
            rows="""
rows[..., 1] += 0.01 * (self.place + torch.arange(tokens.shape[1]))
return rows""",
            after="self.place += self.tokens.shape[1]",
        ),
    ),
    Case(
        "a model that is no torch module",
        "pass",
        BASE
        + """
class Plain:
    def load_state_dict(self, weights, strict): self.table = weights["table"]
    def __call__(self, tokens): return self.table[tokens]
def build_model(config): return Plain()
""",
    ),
]
