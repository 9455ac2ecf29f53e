"""The parts of the scorer: passes, likelihood, audits, report of a score. `eval_heldout.py` is the command."""
