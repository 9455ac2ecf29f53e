"""Publishes a record on the Hugging Face hub: its artifacts that are too large to be committed, then its whole folder.

The token is the one of huggingface_hub: HF_TOKEN, or what `hf auth login` stored. After an upload the artifacts are
fetched again, without the token, as everybody else will fetch them; only then does record.json name the place.

Not covered: pull requests to a repository of somebody else; removing what was published, which nobody should.
"""

import hashlib
import subprocess
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import disable_progress_bars

from golf import schema
from golf.files import Failure, check_plain, sha256_file, write_json
from golf.foreign import terminal
from golf.progress import Progress
from tools.records import artifacts

REFUSED = (401, 403)


def read(folder: Path) -> dict:
    """The record.json of a record that can be published: of format 2, its files as they were made. Raises Failure."""
    check_plain(folder)
    record = schema.read(folder / "record.json", "record")
    if record["format"] == 1:
        raise Failure(f"{folder}: a record of format 1: it stays where it is")
    if folder.name != name_of(record):
        raise Failure(f"{folder}: it calls itself {name_of(record)}")
    for name, sha256 in record["files"].items():
        if not (folder / name).is_file() or sha256_file(folder / name) != sha256:
            raise Failure(f"{folder / name}: missing or edited since the record was made: put it back")
    return record


def name_of(record: dict) -> str:
    """The name of a record's folder."""
    return f"{record['number']}_{record['slug']}"


def is_committed(path: Path) -> bool:
    """Whether a commit of the repository that the file lies in has it."""
    command = ["git", "--literal-pathspecs", "rev-list", "--all", "--max-count=1", "--", path.name]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True).stdout.strip() != ""


def upload_artifacts(folder: Path, record: dict, repo: str) -> dict:
    """Uploads the artifacts that are not in the folder; writes record.json with their place, and returns it.

    Where they have a place already, or all artifacts lie in the folder, nothing happens. Raises Failure, and then
    record.json is as it was."""
    large = [each for row in record["seeds"] if (each := artifacts.stated(record, row["seed"])) and each.file is None]
    if not large or record["hub"] is not None:
        return record
    if is_committed(folder / "record.json"):
        raise Failure(f"{folder}: record.json is committed, and is not edited after that: publish before you commit")
    paths = {place(record, artifacts.artifact_file(each.seed)): _source(each) for each in large}
    commit = _upload(repo, paths, f"Artifacts of {record['track']}/{name_of(record)}")
    with Progress() as progress:
        progress.phase("fetching them again", total=sum(each.size for each in large), unit="bytes")
        for each in large:
            url = artifacts.hub_url(repo, commit, place(record, artifacts.artifact_file(each.seed)))
            data = artifacts.download(url, each.size, progress.advance)
            if hashlib.sha256(data).hexdigest() != each.sha256:
                raise Failure(f"{url}: the hub gives other bytes than were uploaded: try again")
    published = record | {"hub": {"repo": repo, "revision": commit}}
    if errors := schema.faults(published, "record"):
        raise Failure(f"record.json would not be valid: {errors[0]}")
    write_json(folder / "record.json", published)
    return published


def upload_folder(folder: Path, record: dict, repo: str) -> str:
    """Uploads the record's folder; returns the commit on the hub. Raises Failure."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    parts = ["record.json", *(name for name in names if artifacts.is_part(name, record))]
    paths = {place(record, name): folder / name for name in parts}
    commit = _upload(repo, paths, f"Record {record['track']}/{name_of(record)}")
    stated = (folder / "record.json").read_bytes()
    url = artifacts.hub_url(repo, commit, place(record, "record.json"))
    if artifacts.download(url, len(stated)) != stated:
        raise Failure(f"{url}: the hub gives another record.json than was uploaded: try again")
    return commit


def place(record: dict, file: str) -> str:
    """The path of a file of the record on the hub."""
    return artifacts.hub_path(record["track"], name_of(record), file)


def _source(artifact: artifacts.Artifact) -> Path:
    """The copy that `golf record make` kept of an artifact."""
    path = artifacts.cached(artifact)
    if path is None:
        wanted = artifacts.cache() / f"{artifact.sha256}.golf"
        raise Failure(f"{wanted}: not here: copy the model.golf of the run with seed {artifact.seed} to this place")
    return path


def _upload(repo: str, paths: dict[str, Path], message: str) -> str:
    """Commits files to a public repository of models, which is made if it is not there. {path there: file here}."""
    disable_progress_bars()
    api = huggingface_hub.HfApi(endpoint=constants.ENDPOINT)
    operations = [huggingface_hub.CommitOperationAdd(path, file) for path, file in paths.items()]
    try:
        with Progress() as progress:
            progress.phase(f"uploading {len(paths)} files to {repo}")
            api.create_repo(repo, exist_ok=True)
            return api.create_commit(repo, operations, commit_message=message).oid
    except LocalTokenNotFoundError:
        raise Failure(f"{repo}: no token: set HF_TOKEN, or log in with `hf auth login`") from None
    except HFValidationError as error:
        raise Failure(f"--hub {terminal(repo, 100)}: {_line(error)}") from None
    except (HTTPError, OSError, RuntimeError, ValueError, KeyError) as error:
        # RuntimeError is what the Xet client raises for a broken transfer; a strange answer leads to the last two.
        if isinstance(error, HfHubHTTPError) and error.response.status_code in REFUSED:
            raise Failure(f"{repo}: the hub refuses: HF_TOKEN, or `hf auth login`, must allow to write there") from None
        raise artifacts.Unreachable(f"{repo}: cannot upload: {_line(error)}") from None


def _line(error: Exception) -> str:
    """The first line of what an error says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return terminal(lines[0] if lines else type(error).__name__, 300)
