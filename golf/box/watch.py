"""Which packages the artifact imports and which files it opens. Runs in the box: standard library only.

Not covered: code in C passes by these hooks of Python's own, so this is a log and a courtesy; landlock.py and mounts.py
are the wall.
"""

import os
import sys
from importlib.machinery import PathFinder

from golf.box import visible


class Watch:
    """Keeps to the allow-list of imports, and notes which files are opened."""

    LIMIT = 50

    def __init__(self, names, packages, processes):
        self.names = {*names, *sys.stdlib_module_names, *sys.builtin_module_names}
        self.work = os.getcwd() + os.sep
        home = os.path.dirname(os.getcwd())
        readable = (home, *visible.readable_roots(packages, processes), os.devnull)
        roots = [os.path.realpath(path) for path in readable]
        self.roots, self.folders = set(roots), tuple(root + os.sep for root in roots)
        self.files = {}

    def limit_imports(self):
        """Before torch: it tries packages that are not on the list, and copes with a missing one, not a closed one."""
        sys.meta_path[sys.meta_path.index(PathFinder)] = self

    def log_files(self):
        """From now on, for the life of the process."""
        sys.addaudithook(self._note)

    def find_spec(self, name, path=None, target=None):
        """The import system's question; names that are neither allowed nor in the box's directory do not exist."""
        top = name.partition(".")[0]
        own = any(os.path.exists(os.path.join(self.work, top + end)) for end in ("", ".py", ".so"))
        return PathFinder.find_spec(name, path, target) if own or top in self.names else None

    def _note(self, event, arguments):
        if event == "open" and isinstance(arguments[0], (str, bytes)) and len(self.files) < self.LIMIT:
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if path not in self.roots and not path.startswith(self.folders):
                self.files[path] = None
