"""golf/box/cgroup.py: where a control group can be made, and what is left of old ones.

Not covered: a control group of a real kernel, which tests cannot expect to be granted.
"""

import io
import os

from golf.box import cgroup, confine


def test_no_control_group_where_none_can_be_made(monkeypatch, tmp_path):
    monkeypatch.setattr(cgroup, "parents", lambda: [str(tmp_path), str(tmp_path / "missing")])
    assert cgroup.make("golf-box-a", 1, 1) is None  # not handed on: no subtree_control at all
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    assert cgroup.make("golf-box-a", 1, 1) is None and os.listdir(tmp_path) == ["cgroup.subtree_control"]
    assert confine.join(None)[0] is False and confine.join(str(tmp_path / "missing"))[0] is False
    old, new = tmp_path / "golf-box-old", tmp_path / "golf-box-new"
    for folder in (old, new, tmp_path / "other"):
        folder.mkdir()
    os.utime(old, (1, 1))
    cgroup.remove_stale()
    assert sorted(os.listdir(tmp_path)) == ["cgroup.subtree_control", "golf-box-new", "other"]


def test_parents_follow_the_kernels_tables(monkeypatch):
    """The scorer's own group and the one above it, at the place where version 2 is mounted."""
    tables = {
        "/proc/self/mountinfo": "24 1 0:21 / /proc rw - proc proc rw\n"
        "31 23 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
        "/proc/self/cgroup": "4:memory:/x\n0::/user.slice/run.scope\n",
    }
    monkeypatch.setattr(cgroup, "open", lambda path, **_: io.StringIO(tables[path]), raising=False)
    root = "/sys/fs/cgroup/unified"
    assert cgroup.parents() == [f"{root}/user.slice/run.scope", f"{root}/user.slice"]
    tables["/proc/self/cgroup"] = "0::/\n"
    assert cgroup.parents() == [root]
    tables["/proc/self/cgroup"] = "0::/../other\n"
    assert cgroup.parents() == []
