"""Audits: what a pass by construction does not show is sampled afterwards, in fresh boxes, and held against the ledger.

blind   positions drawn after the pass; the box gets the same text with decoys from that position on, and the recorded
        scores up to and at it must come back. A row that used its target, or anything later, differs.
twice   the whole text again, with other batches and threads: every score must come back. It measures the noise.
order   documents shuffled: with scope "none" or "document" no score may move.
sweep   of a box that hands over claimed log-probabilities instead of rows (sweep.py).

One replay in a fresh box serves `blind` and `twice`: before a chunk is sent it is asked about decoys in its place (a
Scorer's state changes in observe() only), from the left, so that it never knows what lies at or beyond the question.

A failed audit says which symbol, and whether the row or the Scorer's state is at fault. Noise below the tolerance must
have no sign and no mean (verdicts.py). docs/audits.md has the power of each audit.

NOT covered: an artifact that cheats only at fewer positions than `misses` says; text that is stored in the artifact
(every audit sees the same text: score.py compares with a fresh split).
"""

import math

import numpy as np

from scoring import passes, reference, verdicts
from scoring.positions import LEVELS, Pace, Positions, affordable, between, by_document
from scoring.sweep import Sweep
from scoring.verdicts import row, tested

PATIENCE = 4  # a box of the audits may take this many times what it should
MIN_TOLERANCE, MAX_TOLERANCE = 1e-3, 0.1  # nats of one symbol; with a GPU the noise decides between the two
NOISE_QUANTILE, NOISE_FACTOR = 0.999, 6


class Auditor:
    """The audits of one pass: a submission, its documents and their ledger. All draws come from `seed`.

    time_limit: seconds that the pass had; opened: rows that a box with `claims` opened in the pass, None where rows
    were handed over; pace: what the pass took."""

    def __init__(self, submission, documents, ledger, scope, level, time_limit, seed, opened=None, pace=Pace(0.0, 0.0)):
        self.submission, self.documents, self.ledger, self.scope = submission, documents, ledger, scope
        self.level, self.opened = LEVELS[level], opened
        self.rng = np.random.default_rng(seed)
        self.tokens = [document.tokens for document in documents]
        self.names = [document.id for document in documents]
        nats, raw_bytes = sum(map(np.sum, ledger.nats)), sum(document.raw_bytes for document in documents)
        self.bpb = float(nats) / math.log(2) / raw_bytes
        # Bits per byte of one nat more in the mean over the symbols of the split.
        self.bpb_per_nat = sum(map(len, self.tokens)) / math.log(2) / raw_bytes
        self.uniform = affordable(self.level, pace, scope == "stream")
        questions = self.uniform * (1 + self.level.aimed) * pace.question
        self.time_limit = PATIENCE * max(time_limit, 2 * pace.seconds + questions)
        self.tolerance = MIN_TOLERANCE

    def run(self, on_phase=lambda name, total: None, on_tokens=lambda count: None):
        """The rows of eval.json's "audits". Raises BoxFailure if a box fails that scored well before.

        on_phase(name, symbols or None) and on_tokens(symbols) report progress."""
        if self.opened is None:
            softmax = row("softmax and sweep", "constructed", "logits by value: the scorer normalises every row itself")
        else:
            softmax = row(
                "softmax", "audited", "log-probabilities were claimed; rows opened afterwards hold them", n=self.opened
            )
        rows = [
            softmax,
            row("order of reveals", "constructed", "one score a symbol; the next chunk is sent after it is fixed"),
            row(
                "lossless",
                "pass",
                f"{len(self.documents):,} documents decoded where the text is unknown",
                n=len(self.documents),
            ),
        ]
        positions = Positions(self.tokens, self.ledger.nats, self.submission.vocab_size, self.rng)
        places, uniform = positions.draw(self.uniform, self.level.aimed)
        swept, uniform_sweeps = positions.draw(self.level.sweeps // 2 if self.opened is not None else 0, 1.0)
        sweep = Sweep(self.tokens, self.ledger.nats, self.submission.vocab_size, self.rng)
        stream = self.scope == "stream"

        on_phase("blind", sum(map(len, self.tokens)))
        with passes.Boxes(self.submission, 1, self.time_limit) as running:
            replay = Replay(self, running.boxes[0], on_tokens)
            replay.run(places, swept if stream else [], sweep)
        rows.append(self._twice(replay.again))
        if stream:
            rows.append(row("order", "not applicable", 'scope "stream": the order is part of the score'))
        else:
            rows.append(self._order(on_phase, on_tokens))
        rows.append(self._blind(places, uniform, replay))
        if swept and not stream:
            on_phase("sweep", None)
            with passes.Boxes(self.submission, 1, self.time_limit) as running:  # one that knows no text yet
                for number, position in sorted(swept):
                    sweep.ask_alone(running.boxes[0], number, position)
        if swept:
            rows.append(sweep.row(self.names, uniform_sweeps, self.tolerance, self.bpb))
        return rows

    # ---- the same text again ----

    def _twice(self, again):
        """The row of `twice`; sets the tolerance. again: nats of all documents in the replay."""
        deltas = [recorded - new for recorded, new in zip(self.ledger.nats, again)]
        drawn = range(len(deltas))
        noise = float(np.quantile(np.abs(np.concatenate(deltas)), NOISE_QUANTILE))
        if passes.gpus():
            self.tolerance = min(MAX_TOLERANCE, max(MIN_TOLERANCE, NOISE_FACTOR * noise))
        if passes.gpus() and NOISE_FACTOR * noise > MAX_TOLERANCE:
            problem = (
                f"the same text scores otherwise in other batches: one symbol in {1 / (1 - NOISE_QUANTILE):,.0f} by "
                f"{noise:.3f} nats or more"
            )
        else:
            problem = (None if passes.gpus() else self._worst(deltas, drawn)) or self._drift(deltas, drawn)
        return tested(
            "twice",
            problem,
            f"{len(deltas):,} documents, noise {noise:.1e} nats, tolerance {self.tolerance:.1e}",
            n=len(deltas),
            noise_nats=noise,
            tolerance_nats=self.tolerance,
        )

    def _order(self, on_phase, on_tokens):
        """The row of `order`: a share of the documents, shuffled, in a fresh box."""
        drawn, left = [], self.level.share * sum(map(len, self.tokens))
        for number in self.rng.permutation(len(self.tokens)).tolist():
            if left <= 0 and len(drawn) >= 20:
                break
            drawn.append(number)
            left -= len(self.tokens[number])
        on_phase("again", sum(len(self.tokens[number]) for number in drawn))
        documents = [self.documents[number] for number in drawn]
        again = [np.full(len(document.tokens), np.nan) for document in documents]

        def commit(place, begin, nats):
            again[place][begin : begin + len(nats)] = nats
            on_tokens(len(nats))

        threads = 2 if passes.cores() == 1 else 1
        with passes.Boxes(self.submission, 1, self.time_limit, threads) as running:
            box = running.boxes[0]
            lengths = [len(document.tokens) for document in documents]
            batches = passes.plan(lengths, box.chunk, self.scope, min(passes.BATCH_TOKENS, box.capacity))
            for place in self.rng.permutation(len(batches)):
                passes.score_batch(box, batches[place], documents, commit)
        deltas = [self.ledger.nats[number] - nats for number, nats in zip(drawn, again)]
        return tested(
            "order",
            self._worst(deltas, drawn) or self._drift(deltas, drawn),
            f"{len(drawn):,} documents, shuffled",
            n=len(drawn),
            misses=verdicts.missed(len(drawn), "documents", self.bpb),
        )

    def _worst(self, deltas, drawn):
        """What is wrong if a symbol differs by more than the tolerance, or None."""
        worst = max(range(len(drawn)), key=lambda place: np.abs(deltas[place]).max())
        where = int(np.abs(deltas[worst]).argmax())
        if abs(deltas[worst][where]) <= self.tolerance:
            return None
        recorded = self.ledger.nats[drawn[worst]][where]
        return (
            f"symbol {where} of document {self.names[drawn[worst]]} was scored {recorded:.4f} nats in the pass and "
            f"{recorded - deltas[worst][where]:.4f} now, with the same text before it: {STATE}"
        )

    def _drift(self, deltas, drawn):
        """What is wrong if the documents moved together, or None."""
        sums = np.array([delta.sum() for delta in deltas])
        bpb_per_nat = len(sums) / math.log(2) / sum(self.documents[number].raw_bytes for number in drawn)
        drift = sums.mean() * bpb_per_nat
        if abs(drift) > verdicts.MAX_DRIFT:
            return f"the score moves by {-drift:+.5f} bpb when it is taken again: {STATE}"
        return verdicts.favoured(sums, bpb_per_nat)

    # ---- blind ----

    def _blind(self, places, uniform, replay):
        """The row of `blind`."""
        at = np.array([replay.found[place][-1] for place in places])
        # The uniform positions come first: their mean estimates the score of a box that knows no target.
        estimate = self.bpb - float(at[:uniform].mean()) * self.bpb_per_nat
        problem = (
            self._differing(places, replay)
            or verdicts.favoured(at[:uniform], self.bpb_per_nat)
            or verdicts.favoured(at, self.bpb_per_nat)
        )
        documents = len({number for number, _ in places})
        return tested(
            "blind",
            problem,
            f"{len(places):,} positions in {documents:,} documents, {uniform:,} of them uniform",
            n=len(places),
            uniform=uniform,
            misses=verdicts.missed(uniform, "positions", self.bpb),
            blind_bpb=estimate,
        )

    def _differing(self, places, replay):
        """What is wrong if a symbol differs by more than the tolerance, or None.

        With the same text before it, a row that looks ahead costs again what it cost; where a share of the differing
        symbols does not, the state is at fault."""
        differing = [place for place in places if replay.largest(place) > self.tolerance]
        differing.sort(key=lambda place: -replay.largest(place))
        texts = []
        restless = []  # of the texts, those of symbols that did not cost the same again
        for number, position in differing:
            delta = replay.found[number, position]
            symbol = position + 1 - len(delta) + int(np.abs(replay.sure(delta)).argmax())
            recorded = self.ledger.nats[number][symbol]
            blind = recorded - delta[symbol - position - 1]
            again = replay.again[number][symbol]
            text = (
                f"symbol {symbol} of document {self.names[number]} was scored {recorded:.4f} nats in the pass and "
                f"{blind:.4f} without the text from symbol {position} on: "
            )
            if abs(recorded - again) <= self.tolerance:
                texts.append(text + "the row uses what it predicts, or what follows")
            else:
                texts.append(f"{text}with that text it does not cost the same again either ({again:.4f}): {STATE}")
                restless.append(texts[-1])
        if len(restless) > STATE_SHARE * len(texts):
            return restless[0]
        return texts[0] if texts else None


STATE_SHARE = 0.1  # of the differing symbols: as many that do not cost the same again are not chance
STATE = (
    "a fault of the Scorer's state, which may change in start() and observe() only and may depend on nothing but "
    "committed text of its scope"
)


class Replay:
    """The whole text again in a fresh box, with questions about decoys in the place of each chunk before it is sent.

    `again`: nats of every symbol, as in a ledger. `found`: by (document, position), recorded minus blind nats of the
    symbols from the chunk's begin up to the position."""

    def __init__(self, auditor, box, on_tokens):
        self.auditor, self.box, self.on_tokens = auditor, box, on_tokens
        self.decoys = reference.Decoys(auditor.tokens, auditor.rng)
        self.again = [np.full(len(symbols), np.nan) for symbols in auditor.tokens]
        self.found: dict[tuple[int, int], np.ndarray] = {}

    def run(self, places, swept, sweep):
        """Ask about all places while the text goes by. swept: places where the sweep asks too, in a box of one lane."""
        box, tokens = self.box, self.auditor.tokens
        asked, swept = by_document(places), by_document(swept)
        lengths = list(map(len, tokens))
        batch_tokens = min(passes.BATCH_TOKENS // 4, box.capacity)
        batches = passes.plan(lengths, box.chunk, self.auditor.scope, batch_tokens)
        if self.auditor.scope != "stream":
            self.auditor.rng.shuffle(batches)
        for batch in batches:

            def before(begin, chunk):
                end = begin + chunk.shape[1]
                queues = [between(asked.get(number, []), begin, end) for number in batch]
                for turn in range(max(map(len, queues))):
                    positions = [queue[turn] if turn < len(queue) else None for queue in queues]
                    self._ask(batch, positions, begin, chunk)
                for number in batch:
                    for position in between(swept.get(number, []), begin, end):
                        sweep.ask(box, number, position, begin)

            for lane, begin, count, nats in passes.walk(box, [tokens[number] for number in batch], before):
                number = batch[lane]
                symbols = tokens[number][begin : begin + count]
                self.again[number][begin : begin + count] = passes.checked(
                    nats(lane, symbols), begin, self.auditor.names[number]
                )
                self.on_tokens(count)

    def _ask(self, batch, positions, begin, chunk):
        """One call: lane by lane the text before the position and decoys from there on, or decoys alone."""
        sent = self.decoys.random(chunk.size).reshape(chunk.shape)
        for lane, position in enumerate(positions):
            if position is not None:
                symbols = self.auditor.tokens[batch[lane]]
                previous = int(symbols[position - 1]) if position else passes.BOS
                place = position - begin
                sent[lane, :place] = chunk[lane, :place]
                sent[lane, place:] = self.decoys.draw(chunk.shape[1] - place, previous, int(symbols[position]))
        nats = passes.ask(self.box, sent)
        for lane, position in enumerate(positions):
            if position is not None:
                number = batch[lane]
                part = slice(begin, position + 1)
                recorded = self.auditor.ledger.nats[number][part]
                self.found[number, position] = recorded - nats(lane, self.auditor.tokens[number][part])

    @staticmethod
    def sure(delta):
        """Differences in which a NaN counts as infinite."""
        return np.nan_to_num(delta, nan=np.inf)

    def largest(self, place):
        """Nats of the largest difference at a place."""
        return float(np.abs(self.sure(self.found[place])).max())
