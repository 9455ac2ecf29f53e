"""Leaks by their shape: small or rare ones, and what the shape of a call tells. Each is cases.BASE plus a few lines.

Not covered: attacks on the box (cases.py, tests/golf/box/).
"""

from tests.redteam.cases import PEEK, Case, claimer, scorer

ONE = "torch.nn.functional.one_hot(tokens, self.size)"
STREAM = 'Scorer.scope = "stream"\n'


def leak(name, where, gain="3.0", loss="0.0", expect="audit blind", audit="quick", more="", **methods):
    """A Case that moves the target's logit by `gain` where the expression `where` [B,C] is true, else by -`loss`."""
    rows = f"chosen = ({where})[..., None]\nreturn rows + torch.where(chosen, {gain}, -{loss}) * {ONE}"
    return Case(name, "caught", scorer(rows=rows, **methods) + more, expect=expect, audit=audit)


EVEN = "(context * 31 + tokens * 17 + torch.arange(tokens.shape[1])) % 2 == 0"

SIZES = [
    leak("half of the symbols gain 0.07 nats, half lose 1e-4", EVEN, "0.07", "1e-4"),
    leak("gains below the tolerance at half, small losses at the other half", EVEN, "9e-4", "1e-4"),
    leak("balanced signs: 46% gain 9e-4, 54% lose 1e-4", EVEN.replace("2 == 0", "100 < 46"), "9e-4", "1e-4"),
    leak("many small gains, few small losses", EVEN.replace("2 == 0", "10 > 0"), "6e-4", "9e-4"),
    leak("7.5e-4 nats at every symbol", "tokens >= 0", "7.5e-4"),
    leak("0.01 nats at every symbol", "tokens >= 0", "0.01"),
    Case(
        "noise of 0.005 nats, and a leak as large in it",
        "caught",
        scorer(
            rows=f"""
torch.manual_seed(int.from_bytes(os.urandom(4), "big"))
return rows + 0.005 * torch.randn(rows.shape) + 0.005 * {ONE}"""
        ),
        expect="audit",
    ),
]

SELDOM = [
    leak("a few large gains, at one pair in 50", "(context * 31 + tokens * 17) % 50 == 0", "4.0", audit="full"),
    Case(
        "rare: the costliest symbols, down to 5 nats",
        "caught",
        scorer(
            rows="""
target = tokens[..., None]
cost = -rows.gather(2, target)
p = torch.where(cost > 5, math.exp(-5), (-cost).exp())
return claim(rows, tokens, p[..., 0])"""
        ),
        expect="audit blind",
        audit="full",
    ),
    Case(
        "only below the reference: never cheaper than its own counts",
        "caught",
        scorer(
            begin="self.counts = torch.ones(self.size)",
            rows="""
plain = (self.counts / self.counts.sum())[tokens]
own = rows.gather(2, tokens[..., None])[..., 0].exp()
return claim(rows, tokens, torch.maximum(own, plain))""",
            after="self.counts += torch.bincount(self.tokens.flatten(), minlength=self.size)",
        )
        + STREAM,
        expect="audit blind",
        audit="full",
    ),
    leak(
        "only in documents whose first symbol is a multiple of 8",
        "(self.first % 8 == 0).expand_as(tokens)",
        audit="full",
        fresh="self.first = None",
        begin="""
plain = Scorer.rows
def rows(self, rows, tokens, context):
    if self.first is None or len(self.first) != len(tokens): self.first = tokens[:, :1]
    return plain(self, rows, tokens, context)
Scorer.rows = rows""",
    ),
    leak(
        "only late in the stream",
        "torch.full_like(tokens, self.seen > 3500, dtype=torch.bool)",
        "1.0",
        audit="full",
        more=STREAM,
    ),
    leak(
        "only late in a document",
        "(torch.arange(tokens.shape[1]) + self.place > 100).expand_as(tokens)",
        "1.0",
        audit="full",
        fresh="self.place = 0",
        after="self.place += self.chunk",
    ),
    leak("only where the target is the end symbol", "tokens == 1", audit="full"),
    leak("only where the target is a byte", "tokens < 260", audit="full"),
    leak("only where the target came just before", "tokens == context", audit="full"),
    leak("only where the target is of a class, as are most decoys", "tokens % 8 != 0", "0.5"),
    leak("only at the first symbol of a chunk", "(torch.arange(tokens.shape[1]) == 0).expand_as(tokens)", audit="full"),
]

AHEAD = [
    Case(
        "looks at the symbol two after the target",
        "caught",
        scorer(
            rows="""
rows[:, :-2] += 0.3 * torch.nn.functional.one_hot(tokens[:, 2:], self.size)
return rows"""
        ),
        expect="audit blind",
    ),
    Case(
        "looks at the last symbol of the chunk",
        "caught",
        scorer(rows="return rows + 0.3 * torch.nn.functional.one_hot(tokens[:, -1:], self.size)"),
        expect="audit blind",
    ),
    Case(
        "a thousandth of a look at all that follows in the chunk",
        "caught",
        scorer(
            rows="""
often = torch.nn.functional.one_hot(tokens, self.size).float().sum(1, keepdim=True)
return rows + 0.02 * often"""
        ),
        expect="audit blind",
    ),
    Case(
        "honest when it is asked a second time about a place",
        "caught",
        scorer(
            fresh="self.asked = False",
            rows=f"""
again, self.asked = self.asked, True
if again: return rows
{PEEK}""",
            after="self.asked = False",
        ),
        expect="audit",
    ),
    Case(
        "honest when all lanes look odd",
        "caught",
        scorer(
            rows=f"""
odd = rows.gather(2, tokens[..., None]).mean((1, 2)) < -5
return torch.where(odd[:, None, None], rows, rows + 3.0 * {ONE})"""
        ),
        expect="audit blind",
    ),
    Case(
        "the targets of the other lanes of a batch",
        "caught",
        scorer(rows=f"return rows + 2.0 * {ONE}.float().mean(0, keepdim=True)"),
        expect="audit",
    ),
    Case(
        "what the scorer asked about is remembered, and counted",
        "caught",
        scorer(
            begin="self.counts = torch.zeros(self.size)",
            rows="""
self.counts += torch.bincount(tokens.flatten(), minlength=self.size)
return rows + 0.05 * torch.log1p(self.counts)""",
        )
        + STREAM,
        expect="audit.*fault of the Scorer's state",
    ),
]

CLAIMED = [
    Case(
        "claims 0.07 nats too much for half of the symbols, 1e-4 too little for the others",
        "caught",
        claimer("return (claims + torch.where(tokens % 2 == 0, 0.07, -1e-4)).clamp(max=0)"),
        expect="audit",
    ),
    Case(
        "claims 9e-4 nats too much for every symbol",
        "caught",
        claimer("return (claims + 9e-4).clamp(max=0)"),
        expect="audit blind",
    ),
    Case(
        "claims that sum to 1.005",
        "caught",
        claimer("return (claims + 0.005).clamp(max=0)"),
        expect="audit",
    ),
    Case(
        "claims too much, and little for all but a lane's odd one when it is swept",
        "caught",
        claimer(
            """
if len(tokens) > 8 and (tokens[:, :-1] == tokens[:1, :-1]).all():
    last, count = tokens[:, -1].unique(return_counts=True)
    odd = last[count.argmax()]
    return torch.where(tokens == odd, claims, claims - 1)
return (claims + 0.3).clamp(max=0)"""
        ),
        expect="audit",
    ),
]

# What the shape of a call tells. Lanes are filled, so that the first two have nothing to hold on to.
SHAPE = [
    Case(
        "the document's end from zeros behind it",
        "no gain",
        scorer(
            rows="""
end = (tokens[:, 1:] == 0) & (tokens[:, :-1] != 0)
rows[:, :-1, 1] += 6.0 * end
return rows"""
        ),
    ),
    Case(
        "the document's end from a shorter call",
        "no gain",
        scorer(
            rows="""
if tokens.shape[1] < self.chunk: rows[:, -1, 1] += 6.0
return rows"""
        ),
    ),
    Case(
        "the document's end from the symbols behind it",
        "caught",
        scorer(
            rows="""
end = (tokens == 1).float()
rows[..., 1] += 6.0 * end
return rows"""
        ),
        expect="audit blind",
        audit="full",
    ),
    Case(
        "the chunk with the document's end, from what follows it",
        "caught",
        scorer(
            rows="""
ends = (tokens == 1).any(1, keepdim=True)
rows[..., 1] += 1.0 * ends
return rows"""
        ),
        expect="audit blind",
        audit="full",
    ),
    Case(
        "a stream's document ends from the length of the last chunk",
        "open",
        scorer(
            rows="""
if tokens.shape[1] < self.chunk: rows[:, -1, 1] += 6.0
return rows"""
        )
        + STREAM,
    ),
]

LEAKS = [*SIZES, *SELDOM, *AHEAD, *CLAIMED, *SHAPE]
