"""The old place of golf/foreign.py. Not covered: anything of its own."""

from golf.foreign import *  # noqa: F403
