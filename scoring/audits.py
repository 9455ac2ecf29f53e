"""Audits: what a pass by construction does not show is sampled afterwards, in fresh boxes, and held against the ledger.

blind   positions drawn after the pass; the box gets the same document with decoys from that position on, and the
        recorded scores up to and at it must come back. A row that used its target, or anything later, differs.
sweep   of a box that hands over claimed log-probabilities instead of rows: every symbol of the alphabet in turn as the
        target at one place; the claimed probabilities, with the recorded one among them, must sum to at most one.
twice   documents again with other batches and threads: measures the numeric noise, which sets the tolerance.
order   documents shuffled: with scope "none" or "document" no score may move.

A failed audit says which symbol; noise below the tolerance must have no sign. docs/audits.md has the power of each.

With scope "stream" a fresh box sees the whole stream again: before a chunk is sent it is asked about decoys in its
place (a Scorer's state changes in observe() only), from the left, so that it never knows what lies beyond the question.

NOT covered: an artifact that cheats only at fewer positions than `misses` says; text that is stored in the artifact
(every audit sees the same text: score.py compares with a fresh split).
"""

import functools
import math

import numpy as np
import scipy.stats

from scoring import passes, reference

LEVELS = {"none": None, "quick": (200, 0.1, 4), "full": (2000, 0.5, 16)}  # blind positions, share again, sweeps
PATIENCE = 4  # a box of the audits may take this many times the limit of the pass: there may have been more of those
MIN_TOLERANCE, MAX_TOLERANCE = 1e-3, 0.1  # nats of one symbol
NOISE_QUANTILE, NOISE_FACTOR = 0.999, 6
MAX_DRIFT = 2e-4  # of the mean, in bits per byte; beyond it noise is no excuse
MIN_DRIFT, SIGN_LEVEL = 2e-5, 1e-4  # a drift above the first whose sign is that unlikely is none of noise
EQUAL = 1e-7  # nats; below it two scores are the same
POWER = 0.01  # `misses` is the largest cheat that is missed with this probability
# Bits per byte of good models of two sizes, straight in the logarithm between: a score well below wants an explanation.
KNOWN = ((250_000, 1.45), (16_000_000, 1.05))
PLAUSIBLE = 0.9


class Auditor:
    """The audits of one pass: a submission, its documents and their ledger. All draws come from `seed`. opened: rows
    that a box with `claims` opened in the pass; None where rows were handed over."""

    def __init__(self, submission, documents, ledger, scope, level, time_limit, seed, opened=None):
        self.submission, self.documents, self.ledger, self.scope = submission, documents, ledger, scope
        self.positions, self.share, self.sweeps = LEVELS[level]
        self.time_limit, self.opened = PATIENCE * time_limit, opened
        self.rng = np.random.default_rng(seed)
        self.tokens = [document.tokens for document in documents]
        self.bytes_per_symbol = sum(document.raw_bytes for document in documents) / sum(map(len, self.tokens))
        self.bpb = float(sum(map(np.sum, ledger.nats))) / math.log(2) / sum(d.raw_bytes for d in documents)
        self.tolerance = MIN_TOLERANCE

    def run(self, on_phase=lambda name, total: None):
        """The rows of eval.json's "audits". Raises BoxFailure if a box fails that scored well before."""
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
        on_phase("again", None)
        with passes.Boxes(self.submission, 1, self.time_limit, threads=2 if passes.cores() == 1 else 1) as running:
            rows += self._again(running.boxes[0])
        on_phase("blind", None)
        return rows + self._blind_and_sweep()

    # ---- the same documents again ----

    def _again(self, box):
        """Rows of `twice` and `order`, in one box. With scope "stream" the first is a prefix, the second does not
        apply."""
        stream = self.scope == "stream"
        drawn, left = [], self.share * sum(map(len, self.tokens))
        for number in range(len(self.tokens)) if stream else self.rng.permutation(len(self.tokens)):
            drawn.append(int(number))
            left -= len(self.tokens[number])
            if left <= 0 and len(drawn) >= min(20, len(self.tokens)):
                break
        batch_tokens = min(passes.BATCH_TOKENS // 4, box.capacity)
        deltas = self._score_again(box, drawn, batch_tokens)
        noise = float(np.quantile(np.abs(np.concatenate(deltas)), NOISE_QUANTILE))
        self.tolerance = max(MIN_TOLERANCE, NOISE_FACTOR * noise)
        detail = f"{len(drawn):,} documents, noise {noise:.1e} nats, tolerance {self.tolerance:.1e}"
        if self.tolerance > MAX_TOLERANCE:
            self.tolerance = MAX_TOLERANCE
            problem = (
                f"the same text scores otherwise in other batches: one symbol in "
                f"{1 / (1 - NOISE_QUANTILE):,.0f} by {noise:.3f} nats or more"
            )
        else:
            problem = self._drift(deltas, drawn)
        rows = [
            row(
                "twice",
                "fail" if problem else "pass",
                problem or detail,
                n=len(drawn),
                misses=self._missed(len(drawn), "documents"),
                noise_nats=noise,
                tolerance_nats=self.tolerance,
            )
        ]
        if stream:
            return rows + [row("order", "not applicable", 'scope "stream": the order is part of the score')]
        self.rng.shuffle(drawn)
        deltas = self._score_again(box, drawn, min(passes.BATCH_TOKENS, box.capacity), shuffled=True)
        problem = self._worst(deltas, drawn) or self._drift(deltas, drawn)
        return rows + [
            row(
                "order",
                "fail" if problem else "pass",
                problem or f"{len(drawn):,} documents, shuffled",
                n=len(drawn),
                misses=self._missed(len(drawn), "documents"),
            )
        ]

    def _score_again(self, box, drawn, batch_tokens, shuffled=False):
        """Recorded minus new nats [T] of each of the drawn documents."""
        lengths = [len(self.tokens[number]) for number in drawn]
        again = [np.full(length, np.nan) for length in lengths]
        batches = passes.plan(lengths, box.chunk, self.scope, batch_tokens)
        if shuffled:
            batches = [batches[place] for place in self.rng.permutation(len(batches))]
        documents = [self.documents[number] for number in drawn]

        def commit(place, begin, nats):
            again[place][begin : begin + len(nats)] = nats

        for batch in batches:
            passes.score_batch(box, batch, documents, commit)
        return [self.ledger.nats[number] - nats for number, nats in zip(drawn, again)]

    def _worst(self, deltas, drawn):
        """What is wrong if a symbol differs by more than the tolerance, or None."""
        worst = max(range(len(drawn)), key=lambda place: np.abs(deltas[place]).max())
        where = int(np.abs(deltas[worst]).argmax())
        if abs(deltas[worst][where]) <= self.tolerance:
            return None
        recorded = self.ledger.nats[drawn[worst]][where]
        return (
            f"symbol {where} of document {self.documents[drawn[worst]].id} was scored {recorded:.4f} nats in the "
            f"pass and {recorded - deltas[worst][where]:.4f} now"
        )

    def _drift(self, deltas, drawn):
        """What is wrong if the documents moved together, or None."""
        sums = np.array([delta.sum() for delta in deltas])
        drift = sums.sum() / math.log(2) / sum(self.documents[number].raw_bytes for number in drawn)
        if abs(drift) > MAX_DRIFT:
            return f"the score moves by {-drift:+.5f} bpb when it is taken again"
        return signed_noise(sums, drift)

    # ---- blind ----

    def _blind_and_sweep(self):
        """Rows of `blind` and, with claims, of `sweep`."""
        positions, uniform = self._draw_positions(self.positions)
        sweeps, uniform_sweeps = self._draw_positions(self.sweeps if self.opened is not None else 0)
        decoys = reference.Decoys(self.tokens, self.rng)
        found = {}  # (document, position) -> recorded minus blind nats of the symbols up to and at it, in its chunk
        sums = {}  # (document, position) -> (sum of the probabilities claimed for all symbols, recorded minus new nats)
        with passes.Boxes(self.submission, 1, self.time_limit) as running:
            if self.scope == "stream":
                self._replay(running.boxes[0], positions, sweeps, decoys, found, sums)
            else:
                self._blind_documents(running.boxes[0], positions, decoys, found)
        if sweeps and self.scope != "stream":
            with passes.Boxes(self.submission, 1, self.time_limit) as running:  # one that knows no text yet
                for number, position in sorted(sweeps):
                    self._sweep_lanes(running.boxes[0], number, position, sums)
        return [self._blind(positions, uniform, found), *([self._sweep(sums, uniform_sweeps)] if sweeps else [])]

    def _blind_documents(self, box, positions, decoys, found):
        """A document's positions one after the other and from the left: what the box could remember of it is never past
        the position that it is asked for."""
        for turn in rounds(positions):
            ends = [self._end(number, position, box.chunk) for number, position in turn]
            for batch in passes.plan(ends, box.chunk, "document", min(passes.BATCH_TOKENS, box.capacity)):
                self._blind_lanes(box, [turn[place] for place in batch], decoys, found)

    def _replay(self, box, positions, sweeps, decoys, found, sums):
        """The stream again up to the last position. Before each chunk the box is asked about decoys in its place, from
        the left."""
        blind, swept = set(positions), set(sweeps)
        asked = {}
        for number, position in sorted(blind | swept):
            asked.setdefault(number, []).append(position)
        for number in range(max(asked) + 1):

            def before(begin, chunk):
                for position in asked.get(number, ()):
                    if not begin <= position < begin + chunk.shape[1]:
                        continue
                    if (number, position) in blind:
                        altered = self._altered(number, position, begin + chunk.shape[1], decoys)
                        self._compare(number, position, begin, 0, passes.ask(box, altered[None, begin:]), found)
                    if (number, position) in swept:
                        sums[number, position] = self._sum(box, number, position, chunk[:, : position - begin + 1])

            for _ in passes.walk(box, [self.tokens[number]], before):
                pass

    def _blind(self, positions, uniform, found):
        at = np.array([found[place][-1] for place in positions])
        drawn = [number for number, _ in positions]
        worst = max(positions, key=lambda place: np.nan_to_num(np.abs(found[place]), nan=np.inf).max())
        delta = found[worst]
        # A first half of the positions is uniform: the mean there estimates the score of a box that knows no target.
        estimate = self.bpb - float(at[:uniform].mean()) / math.log(2) / self.bytes_per_symbol
        problem = None
        if not np.abs(delta).max() <= self.tolerance:
            symbol = worst[1] - len(delta) + 1 + int(np.nan_to_num(np.abs(delta), nan=np.inf).argmax())
            recorded = self.ledger.nats[worst[0]][symbol]
            blind = recorded - delta[symbol - worst[1] - 1]
            problem = (
                f"symbol {symbol} of document {self.documents[worst[0]].id} was scored {recorded:.4f} nats in "
                f"the pass and {blind:.4f} without the text from symbol {worst[1]} on: the row uses what it "
                "predicts, or what follows"
            )
        else:
            problem = signed_noise(at, at.mean() / math.log(2) / self.bytes_per_symbol)
        return row(
            "blind",
            "fail" if problem else "pass",
            problem or f"{len(positions):,} positions in {len(set(drawn)):,} documents",
            n=len(positions),
            misses=self._missed(uniform, "positions"),
            blind_bpb=estimate,
        )

    @functools.cached_property
    def _gain(self):
        """Nats by which the pass beats the reference model at each symbol of the split [T]; 0 beyond the reference."""
        expected = reference.adaptive_nats(self.tokens, self.submission.vocab_size)
        gain = np.zeros(sum(map(len, self.tokens)))
        known = np.concatenate(expected)
        gain[: len(known)] = np.maximum(0, known - np.concatenate(self.ledger.nats[: len(expected)]))
        return gain

    def _draw_positions(self, count):
        """([(document, position)], how many of them are uniform, which come first): the others where the pass beats the
        reference model, in proportion to the nats."""
        lengths = np.array([len(symbols) for symbols in self.tokens])
        count = min(count, int(lengths.sum()))
        starts = np.cumsum(lengths) - lengths
        uniform = self.rng.choice(int(lengths.sum()), (count + 1) // 2, replace=False)
        gain = self._gain.copy()
        gain[uniform] = 0
        aimed = min(count // 2, np.count_nonzero(gain))
        drawn = np.concatenate(
            [
                uniform,
                self.rng.choice(len(gain), aimed, replace=False, p=gain / gain.sum())
                if aimed
                else np.empty(0, dtype=int),
            ]
        )
        documents = np.searchsorted(starts, drawn, side="right") - 1
        return [(int(d), int(place - starts[d])) for d, place in zip(documents, drawn)], len(uniform)

    def _end(self, number, position, chunk):
        return min(len(self.tokens[number]), (position // chunk + 1) * chunk)

    def _altered(self, number, position, end, decoys):
        """The first `end` symbols of a document, with decoys from `position` on."""
        truth = self.tokens[number]
        symbols = truth[:end].copy()
        symbols[position:] = decoys.draw(
            end - position, int(truth[position - 1]) if position else passes.BOS, int(truth[position])
        )
        if end == len(truth) and position < end - 1:
            symbols[-1] = passes.BOS
        return symbols

    def _blind_lanes(self, box, lanes, decoys, found):
        altered = [
            self._altered(number, position, self._end(number, position, box.chunk), decoys)
            for number, position in lanes
        ]
        for lane, begin, count, nats in passes.walk(box, altered):
            number, position = lanes[lane]
            if begin <= position < begin + count:
                self._compare(number, position, begin, lane, nats, found)

    def _compare(self, number, position, begin, lane, nats, found):
        """Enter what the true symbols from `begin` up to `position` cost in the pass more than they do now."""
        recorded = self.ledger.nats[number][begin : position + 1]
        found[number, position] = recorded - nats(lane, self.tokens[number][begin : position + 1])

    # ---- sweep ----

    def _sweep_lanes(self, box, number, position, sums):
        """The same document up to `position` in all lanes of a batch, and the sweep there."""
        lanes = max(1, min(self.submission.vocab_size, min(passes.BATCH_TOKENS, box.capacity) // box.chunk))

        def before(begin, chunk):
            if begin + chunk.shape[1] > position:
                sums[number, position] = self._sum(box, number, position, chunk)

        for _ in passes.walk(box, [self.tokens[number][: position + 1]] * lanes, before):
            pass

    def _sum(self, box, number, position, chunk):
        """(sum of the probabilities that are claimed for all symbols at the end of `chunk` [B, n], which is `position`;
        recorded minus new nats of the true one). A box that behaves now, or claims little for all, misses the latter:
        it cannot know which symbol is the true one."""
        total, delta = 0.0, math.nan
        symbols = self.rng.permutation(self.submission.vocab_size)
        for begin in range(0, len(symbols), len(chunk)):
            some = symbols[begin : begin + len(chunk)]
            sent = chunk.copy()
            sent[: len(some), -1] = some
            claimed = box.claimed(sent)[: len(some), -1]
            total += float(np.exp(-claimed).sum())
            for nats in claimed[some == self.tokens[number][position]]:
                delta = float(self.ledger.nats[number][position] - nats)
        return total, delta

    def _sweep(self, sums, uniform):
        def badness(place):
            total, delta = sums[place]
            return np.nan_to_num(max(total - 1, abs(delta)) if total == total else np.inf, nan=np.inf)

        worst = max(sums, key=badness)
        total, delta = sums[worst]
        where = f"symbol {worst[1]} of document {self.documents[worst[0]].id}"
        verdict, detail = (
            "pass",
            (
                f"{len(sums)} positions, all {self.submission.vocab_size:,} symbols, largest sum "
                f"{max(total for total, _ in sums.values()):.6f}"
            ),
        )
        if not total <= math.exp(self.tolerance):
            verdict, detail = "fail", f"the probabilities claimed for all symbols at {where} sum to {total:.4f}"
        elif not abs(delta) <= self.tolerance:
            verdict, detail = "fail", f"at {where} {-delta:+.4f} nats more are claimed when every symbol is asked for"
        return row("sweep", verdict, detail, n=len(sums), misses=self._missed(uniform, "positions"))

    def _missed(self, count, unit):
        """The largest cheat that `count` uniform draws miss with probability POWER: a share f of the units with
        (1 - f)^n = POWER; if each of them costs nothing any more, f of the score."""
        share = 1 - POWER ** (1 / max(1, count))
        return {"share": share, "of": unit, "bpb": share * self.bpb, "with_probability": POWER}


def rounds(positions):
    """Lists of (document, position), each document at most once in a list and with growing positions over them."""
    turns, seen = [], {}
    for number, position in sorted(positions):
        turn = seen[number] = seen.get(number, -1) + 1
        turns += [[]] * (turn == len(turns))
        turns[turn] = [*turns[turn], (number, position)]
    return turns


def signed_noise(deltas, drift_bpb):
    """What is wrong if differences (recorded minus new nats) that are small each favour the record, or None."""
    moved = deltas[np.abs(deltas) > EQUAL]
    if not len(moved) or -drift_bpb < MIN_DRIFT:
        return None
    p = scipy.stats.binomtest(int((moved < 0).sum()), len(moved), 0.5, alternative="greater").pvalue
    if p >= SIGN_LEVEL:
        return None
    return (
        f"{(moved < 0).sum()} of {len(moved)} differences favour the recorded score, by {-drift_bpb:.1e} bpb "
        f"together (sign test p = {p:.1e}): noise has no sign"
    )


def row(audit, verdict, detail, **fields):
    """A row of the table of audits. verdict: pass | fail | note | constructed | audited | not applicable."""
    return {"audit": audit, "verdict": verdict, "detail": detail, **fields}


def plausibility(bpb, artifact_bytes):
    """The row that compares a score with good models of the artifact's size: a note, never a verdict."""
    (small, worse), (large, better) = KNOWN
    place = math.log(max(artifact_bytes, 1) / small) / math.log(large / small)
    expected = worse + (better - worse) * place
    if bpb >= PLAUSIBLE * expected:
        return row("plausibility", "pass", f"good models of this size reach about {expected:.2f} bpb on English text")
    return row(
        "plausibility",
        "note",
        f"{bpb:.4f} bpb is far below the {expected:.2f} of good models of this size on "
        "English text: ask why before you believe it, and see --fresh",
    )


def fresh(name, bpb, bpb_interval, fresh_bpb, fresh_interval, simple_bpb, simple_fresh_bpb):
    """The row that compares a split with one that the submission cannot have seen. Intervals are (low, high) or None;
    simple_*: of the reference model, which tells how much harder the fresh text is."""
    gap, expected = fresh_bpb - bpb, bpb * (simple_fresh_bpb / simple_bpb - 1)
    if bpb_interval is None or fresh_interval is None:
        return row("fresh text", "note", f"{gap:+.4f} bpb on {name}; too few documents for an interval", gap_bpb=gap)
    # Two independent samples of documents: half widths add in squares.
    below = math.hypot(fresh_bpb - fresh_interval[0], bpb_interval[1] - bpb)
    above = math.hypot(fresh_interval[1] - fresh_bpb, bpb - bpb_interval[0])
    excess = gap - expected - 1.5 * below  # from 95% to about 99.8%
    detail = f"{gap:+.4f} bpb on {name} ({gap - below:+.4f} .. {gap + above:+.4f}), text alone {expected:+.4f}"
    verdict = "fail" if excess > 0.02 * bpb else "pass"
    if verdict == "fail":
        detail += ": the artifact knows the first split"
    return row(
        "fresh text", verdict, detail, gap_bpb=gap, gap_interval=[gap - below, gap + above], expected_gap_bpb=expected
    )
