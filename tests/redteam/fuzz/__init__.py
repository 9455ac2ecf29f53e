"""Mutated files through whatever reads them: artifacts, checkpoints, statistics, resume states, shards, manifests and
sweep files. `python -m tests.redteam.fuzz --help` has the command.

Mutations know the formats: fields of the wrong type and size, odd tensors, sections and entries swapped, with checksums
that are right again; and plain damage. A reader must end with what it read, or with one printable line of the kit's
own, within limits on processor time and memory, and leave nothing behind.

Not covered: what an artifact's code does (the box's tests and the red team); records, runs and the log of runs
(tests/support/foreign_input.py and mutate_log.py).
"""
