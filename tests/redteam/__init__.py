"""Small artifacts that cheat, or are broken, and honest ones that look suspicious: `python -m tests.redteam`."""
