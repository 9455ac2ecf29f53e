"""`python -m tests.redteam.fuzz.limited BYTES MODULE WORDS...`: as `python -m MODULE WORDS...`, with a limit on memory.

Not covered: memory that processes share.
"""

import resource
import runpy
import sys

if __name__ == "__main__":
    size = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
