"""For tests: boxes whose layers are taken out, one or several, and a look into a box from outside.

Not covered: layers that are resource limits or namespaces by themselves.
"""

import glob

from golf.box import box

# Layer -> file of the box, and what is put at its end.
WALLS = {
    "Landlock": ("landlock.py", "def restrict(packages, processes):\n    return False, 'taken out'\n"),
    "own root": ("mounts.py", "def private_root(processes):\n    return False, 'taken out'\n"),
    "known calls": ("calls.py", "def is_recorded(machine, processes):\n    return False\n"),
    "refused calls": ("calls.py", "def restrict(processes):\n    return [(False, 'taken out')] * 2\n"),
    "own System V objects": ("confine.py", "CLONE_NEWIPC = 0\n"),
    "own users": ("confine.py", "CLONE_NEWUSER = 0\n"),  # as root alone
    "own network": ("confine.py", "CLONE_NEWNET = 0\n"),
    "capabilities": ("confine.py", "def drop_capabilities():\n    return False, 'taken out'\n"),
    "cores": ("confine.py", "def _pin(cores):\n    return False, 'taken out'\n"),
    # With another limit above, for all boxes together: else the test would take the signals of everybody here.
    "queued signals": (
        "confine.py",
        "MAX_QUEUED_SIGNALS = 1 << 30\nresource.setrlimit(resource.RLIMIT_SIGPENDING, (2000, 2000))\n",
    ),
}


def take_out(monkeypatch, *names):
    """From here on in this test, boxes get files in which these layers do nothing."""
    real = box.shutil.copyfile

    def copyfile(source, target):
        real(source, target)
        with open(target, "a") as file:
            for name in names:
                ending, code = WALLS[name]
                if source.endswith("/" + ending):
                    file.write(f"\n\n{code}")

    monkeypatch.setattr(box.shutil, "copyfile", copyfile)


def in_work_folder(folder, name):
    """Whether a box with its directory below `folder` has a file `name` in its work folder, as the box itself sees it:
    where it has a root of its own, the folder is not to be seen from outside."""
    return bool(glob.glob(f"/proc/[0-9]*/root{folder}/golf-box-*/work/{name}"))
