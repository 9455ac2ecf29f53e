"""What the workflows may do, read from their YAML; and .ci/records, which checks a pull request's records, in small
repositories with a checker that only notes what it was asked.

Not covered: what GitHub makes of the files.
"""

import os
import re
import subprocess

import pytest
import yaml

from tests.support import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
RECORD = "records/pocket/0007_wider"
GIT = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


def read(path) -> dict:
    """A workflow; its key "on" is true for a reader of YAML 1.1."""
    value = yaml.safe_load(path.read_text())
    return {"on" if key is True else key: item for key, item in value.items()}


def checkouts(job: dict) -> list[dict]:
    return [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_workflow_gives_a_request_more_than_reading(path):
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in workflow["on"] and "workflow_run" not in workflow["on"]
    assert not re.search(r"\bsecrets[.:\[]", path.read_text())
    for job in workflow["jobs"].values():
        assert "permissions" not in job and isinstance(job["timeout-minutes"], int)
        assert checkouts(job) and all(step["with"]["persist-credentials"] is False for step in checkouts(job))
        # Names of branches and titles are a stranger's: none is pasted into a command.
        assert all("${{" not in step.get("run", "") for step in job["steps"])


def test_a_records_request_is_judged_by_the_base_branch():
    workflow = read(ROOT / ".github/workflows/records.yml")
    assert workflow["on"] == {"pull_request": {"paths": ["records/**"]}}
    assert list(workflow["jobs"]) == ["quick", "full"]
    for job in workflow["jobs"].values():
        base, request = checkouts(job)
        assert base["with"]["path"] == "base" and base["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
        assert request["with"]["path"] == "request"
        assert request["with"]["ref"] == "${{ github.event.pull_request.head.sha }}"
        for step in job["steps"]:
            command = step.get("run", "")
            if "request" in command.replace('"$REQUEST"', ""):
                assert command == "git -C base fetch --quiet --no-tags ../request HEAD:refs/remotes/request/head"
            assert step.get("working-directory") in (None, "base")
        last = job["steps"][-1]
        assert '.ci/records "$BASE" "$REQUEST"' in last["run"] and "|| " not in last["run"]
        assert not last.get("continue-on-error") and not job.get("continue-on-error")
        assert all("github.head_ref" not in str(step) for step in job["steps"])
    quick, full = workflow["jobs"].values()
    assert "environment" not in quick and quick["steps"][-1]["run"].endswith(" --quick")
    assert full["environment"] == "scoring" and full["needs"] == "quick" and "--quick" not in full["steps"][-1]["run"]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository with .ci/records and two records, and a checker that writes its arguments to `asked` and ends with
    the number in `status`."""
    for key, value in GIT.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    root = tmp_path / "base"
    for name in ("records/pocket/0001_old", "records/pocket/0002_old", ".ci"):
        (root / name).mkdir(parents=True)
    (root / ".ci/records").write_bytes((ROOT / ".ci/records").read_bytes())
    (root / ".ci/records").chmod(0o755)
    for name in ("0001_old", "0002_old"):
        (root / f"records/pocket/{name}/record.json").write_text("{}")
        (root / f"records/pocket/{name}/README.md").write_text("old")
    checker = tmp_path / "checker"
    checker.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/asked\n'
        f'echo "::error::of a stranger"\nexit $(cat {tmp_path}/status)\n'
    )
    checker.chmod(0o755)
    monkeypatch.setenv("PYTHON", str(checker))
    (tmp_path / "status").write_text("0")
    git(root, "init", "-q", "-b", "main")
    commit(root)
    return root


def git(root, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def commit(root) -> str:
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", "change")
    return git(root, "rev-parse", "HEAD")


def judge(root, change, *more: str) -> tuple[subprocess.CompletedProcess, str]:
    """What .ci/records ends with for a request that makes `change`; and the request's commit. The base branch moves on
    meanwhile."""
    git(root, "checkout", "-q", "-b", "request")
    change(root)
    request = commit(root)
    git(root, "checkout", "-q", "main")
    (root / "later").write_text("later")
    base = commit(root)
    done = subprocess.run([root / ".ci/records", base, request, *more], capture_output=True, text=True, timeout=60)
    return done, request


def add(name: str, text: str = "new"):
    def change(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    return change


def asked(root) -> list[str]:
    path = root.parent / "asked"
    return path.read_text().splitlines() if path.exists() else []


def test_added_records_are_checked_out_of_the_request(clone):
    def change(root):
        add(f"{RECORD}/record.json")(root)
        add(f"{RECORD}/logs/seed1.log")(root)
        add("records/pocket/0008_more/record.json")(root)
        add("records/labels.toml")(root)
        add("records/leaderboard.json")(root)  # of golf board
        add("train_gpt.py")(root)
        add(".ci/records", "#!/bin/sh\nexit 0\n")(root)  # a request's own checker does not run

    done, request = judge(clone, change, "--quick")
    assert done.returncode == 0, done.stderr
    assert asked(clone) == [
        "-m",
        "golf",
        "check",
        f"{request}:{RECORD}",
        f"{request}:records/pocket/0008_more",
        "--quick",
    ]


def test_a_request_without_records_asks_nothing(clone):
    done, _ = judge(clone, add("records/references/0001_old.py"))
    assert done.returncode == 0 and asked(clone) == [] and "no record is added" in done.stdout


ADDITION = add("records/pocket/0001_old/additions/2026-11-29_scored_seed1_01234567.json")


def test_of_a_record_that_was_added_to_r17_alone_is_checked(clone):
    done, request = judge(clone, ADDITION, "--quick")
    assert done.returncode == 0 and asked(clone)[3:] == [f"{request}:records/pocket/0001_old", "--rule", "R17"]


def test_a_bad_addition_ends_the_check_of_what_else_a_request_adds(clone):
    (clone.parent / "status").write_text("1")

    def change(root):
        ADDITION(root)
        add(f"{RECORD}/record.json")(root)

    done, request = judge(clone, change)
    assert done.returncode == 1 and asked(clone)[3:] == [f"{request}:records/pocket/0001_old", "--rule", "R17"]


EDITS = {
    "edited": add("records/pocket/0001_old/record.json"),
    "README edited": add("records/pocket/0001_old/README.md"),
    "one more file": add("records/pocket/0001_old/more.txt"),
    "removed": lambda root: (root / "records/pocket/0001_old/record.json").unlink(),
    "renamed": lambda root: (root / "records/pocket/0001_old").rename(root / "records/pocket/0003_new"),
    "beside the records": add("records/pocket/x.txt"),
    "another name": add("records/pocket/0007_X y\n::error::z/record.json"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_request_that_edits_records_fails_before_anything_is_checked(clone, edit):
    done, _ = judge(clone, EDITS[edit], "--quick")
    assert done.returncode == 1 and asked(clone) == [] and done.stdout.count("\n") == 1
    assert not done.stdout.startswith("::")


@pytest.mark.parametrize("status, quick, full", [(0, 0, 0), (1, 1, 1), (2, 2, 2), (4, 0, 4), (139, 139, 139)])
def test_what_was_not_checked_passes_only_the_quick_check_and_with_a_warning(clone, status, quick, full):
    (clone.parent / "status").write_text(str(status))
    done, request = judge(clone, add(f"{RECORD}/record.json"), "--quick")
    assert done.returncode == quick
    assert ("::warning title=Not everything was checked" in done.stdout) == (status == 4)
    again = subprocess.run(
        [clone / ".ci/records", git(clone, "rev-parse", "main"), request], capture_output=True, text=True, timeout=60
    )
    assert again.returncode == full and "::warning" not in again.stdout

    # Between these two lines the runner takes no commands.
    first, stranger, last, *_ = done.stdout.splitlines()
    token = first.removeprefix("::stop-commands::")
    assert len(token) == 32 and stranger.startswith("::error") and last == f"::{token}::"


def test_a_base_that_is_not_there_is_no_pass(clone):
    done = subprocess.run([clone / ".ci/records", "0" * 40, "HEAD"], capture_output=True, text=True, timeout=60)
    assert done.returncode not in (0, 4) and asked(clone) == []
