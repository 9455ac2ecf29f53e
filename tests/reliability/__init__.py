"""What becomes of the kit's work under bad luck: killed commands, full disks, two at once.

`python -m tests.reliability --json` prints a row for each command and kind of bad luck: {"test", "tried", "survived",
"lost", "left_behind"}. A try survives if what was promised is whole, if no process is left, and if the same command
then comes to the end that it comes to without bad luck. `lost` says what was wrong, `left_behind` names files that are
still there after that.

Not covered: power that fails, as fsync is only counted (tests/support/durable.py); file systems without locks; GPUs.
"""
