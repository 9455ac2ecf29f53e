"""The tracks: what a record may weigh, how long it may train and be scored, and on what.

This is the one home of these facts for the tools, the packer and the scorer. train_gpt.py has its presets beside it,
because it stands alone.

Not covered: what the rules demand beyond size and time (RULES.md); how data sets are made (golf data).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Track:
    """One track.

    cap_bytes: the most that an artifact may weigh. Bytes are decimal: 16 MB are 16,000,000.
    training_seconds: the training clock; None where training may take any time. Where par_tokens is given, it is about
    what a record takes on two quiet cores, and the limit of records made under version 1 of the rules.
    par_tokens: what a record may train on is this many tokens times its speed ratio to record 0001 (RULES.md, R4); None
    where the clock on the wall rules.
    scoring_seconds: the scoring clock, decoding included.
    machine: what both clocks run on. gpus: the most that a run may train on; 0 where it trains on a CPU.
    data: what the model is trained and scored on. description: one sentence.
    """

    name: str
    cap_bytes: int
    training_seconds: int | None
    par_tokens: int | None
    scoring_seconds: int
    machine: str
    gpus: int
    data: str
    description: str

    def allowed_tokens(self, ratio: float) -> int:
        """What a run may train on whose script is `ratio` times as fast as record 0001's, where par_tokens rules."""
        return int((self.par_tokens or 0) * ratio)


POCKET = Track(
    name="pocket",
    cap_bytes=250_000,
    training_seconds=600,
    par_tokens=9_000_000,
    scoring_seconds=600,
    machine="2 CPU cores",
    gpus=0,
    data="English prose from PyPI packages",
    description="At most 250,000 bytes; 9,000,000 tokens of training times the speed ratio to record 0001, about 600 s "
    "on 2 CPU cores; 600 s of scoring; English prose from PyPI packages.",
)
TWO_MB = Track(
    name="2mb",
    cap_bytes=2_000_000,
    training_seconds=600,
    par_tokens=None,
    scoring_seconds=600,
    machine="1xH100",
    gpus=1,
    data="FineWeb",
    description="At most 2,000,000 bytes; 600 s of training and 600 s of scoring on 1xH100; FineWeb.",
)
SIXTEEN_MB = Track(
    name="16mb",
    cap_bytes=16_000_000,
    training_seconds=600,
    par_tokens=None,
    scoring_seconds=600,
    machine="8xH100",
    gpus=8,
    data="FineWeb",
    description="At most 16,000,000 bytes; 600 s of training and 600 s of scoring on 8xH100; FineWeb.",
)
OPEN = Track(
    name="open",
    cap_bytes=16_000_000,  # the largest of the caps: a record of this track may keep to any
    training_seconds=None,
    par_tokens=None,
    scoring_seconds=600,
    machine="the machine of another track",
    gpus=8,
    data="the data of another track",
    description="Any of the caps and no training clock: for ideas that are not fast yet.",
)

TRACKS = {track.name: track for track in (POCKET, TWO_MB, SIXTEEN_MB, OPEN)}

# SHA-256 of manifest.json of the data sets that records may train on: what `golf data` builds, to the byte. Whoever
# makes a record with a new tokenizer adds its set here, with the variant that builds it again.
DATA_SETS = {
    "pocket": {
        "data/embedded": "d67e622be8085a3f0ce4bcd053c0deca0cc2071e6a436a2d706f68f47cc98963",
        "data/embedded_sp2048_case": "50a49bcb1ef19add3236cdc8c7f623310aae196a669ce33ca7c2b48a5b760eee",
    },
}

RULES_VERSION = 2  # of RULES.md; a record names the one that it was made under. 1: pocket had a clock on the wall


def rules_of(record: dict) -> int:
    """The version of RULES.md that a record.json was made under; the first ones do not name it."""
    return record.get("rules", 1)
