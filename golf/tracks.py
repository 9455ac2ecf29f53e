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
    training_seconds: the training clock; None where training may take any time.
    scoring_seconds: the scoring clock, decoding included.
    machine: what both clocks run on. data: what the model is trained and scored on. description: one sentence.
    """

    name: str
    cap_bytes: int
    training_seconds: int | None
    scoring_seconds: int
    machine: str
    data: str
    description: str


POCKET = Track(
    name="pocket",
    cap_bytes=250_000,
    training_seconds=600,
    scoring_seconds=600,
    machine="2 CPU cores",
    data="English prose from PyPI packages",
    description="At most 250,000 bytes; 600 s of training and 600 s of scoring on 2 CPU cores; English prose from PyPI "
    "packages.",
)
SIXTEEN_MB = Track(
    name="16mb",
    cap_bytes=16_000_000,
    training_seconds=600,
    scoring_seconds=600,
    machine="8xH100",
    data="FineWeb",
    description="At most 16,000,000 bytes; 600 s of training and 600 s of scoring on 8xH100; FineWeb.",
)
OPEN = Track(
    name="open",
    cap_bytes=16_000_000,  # the larger of the two caps: a record of this track may keep to either
    training_seconds=None,
    scoring_seconds=600,
    machine="the machine of either track",
    data="the data of either track",
    description="Either cap and no training clock: for ideas that are not fast yet.",
)

TRACKS = {track.name: track for track in (POCKET, SIXTEEN_MB, OPEN)}
