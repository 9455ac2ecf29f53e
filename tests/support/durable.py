"""Records what reaches the disk and when: calls of fsync and of what gives a file its name. Not a test itself.

Not covered: what a disk does with an fsync.
"""

import os
from pathlib import Path


def recorded(monkeypatch) -> list[tuple[str, str]]:
    """From now on the calls of fsync, replace, rename and link, with the name of the file that each is about."""
    done: list[tuple[str, str]] = []
    fsync, replace, rename, link = os.fsync, os.replace, os.rename, os.link

    def seen_fsync(descriptor):
        done.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def seen_replace(source, target):
        done.append(("replace", Path(source).name))
        replace(source, target)

    def seen_rename(source, target):
        done.append(("rename", Path(source).name))
        rename(source, target)

    def seen_link(source, target):
        done.append(("link", Path(source).name))
        link(source, target)

    monkeypatch.setattr(os, "link", seen_link)
    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    monkeypatch.setattr(os, "rename", seen_rename)
    return done
