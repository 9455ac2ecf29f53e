"""Commands behind `golf`: whether a gain is real: the proof, and the ladder for the gate split."""
