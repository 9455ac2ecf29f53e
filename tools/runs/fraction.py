"""How much of a run is over, from its config and a row of its metrics.jsonl, as the script's own schedule counts.

Not covered: how long the rest takes (golf watch); what the schedule does with it (train_gpt.py).
"""

from typing import Any

from tools.runs.rows import is_number

LIMITS = {"max_seconds": "elapsed", "max_steps": "step", "max_tokens": "tokens"}  # field of Config: value in a row


def number(value: Any) -> float:
    """A value of a stranger's file; 0 if it is no number."""
    return value if is_number(value) else 0.0


def fraction(config: dict, row: dict) -> float | None:
    """Between 0 and 1, by the limit that is nearest; None if the config has none. Values that are no numbers count as
    missing."""
    limits = {key: number(config.get(field)) for field, key in LIMITS.items()}
    parts = [number(row.get(key)) / limit for key, limit in limits.items() if limit > 0]
    return min(1.0, max(parts)) if parts else None
