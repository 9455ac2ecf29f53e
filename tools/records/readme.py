"""The README.md of a record: what it scores, what it was allowed to train on, and how to run and score it again.

Not covered: whether what the record says is true (golf check); the leaderboard's README.md (golf board).
"""

import shlex
from pathlib import Path

from golf.foreign import markdown
from golf.statistics import mean_interval
from golf.tracks import TRACKS
from tools.records import artifacts


def text(record: dict, name: str, run: dict, flags: list[str]) -> str:
    """The page of the record `name`. run: the run.json of the median seed; flags: the `--field=value` arguments that
    turn its script's preset into its config."""
    return "\n\n".join((_head(record, name), _again(record, name, run, flags), _score(record, name, run))) + "\n"


def _head(record: dict, name: str) -> str:
    rows = "\n".join(
        f"| {row['seed']} | {row['bpb']:.4f} | {_link(record, name, row)} | {row['artifact_bytes']:,} "
        f"| {row['train_seconds']:.1f} | {row['steps']:,} | {row['tokens']:,} |"
        for row in record["seeds"]
    )
    return f"""# {markdown(record["title"])}

{markdown(record["idea"])}

Track {record["track"]}, scope {record["scope"]}, parent {record["parent"] or "none"}; {record["date"]}, \
by {", ".join(map(markdown, record["authors"]))}; help from agents: {record["agent_help"]}; \
made under version {record["rules"]} of the rules.

| seed | bpb ({record["data"]["split"]}) | artifact | artifact bytes | train seconds | steps | tokens |
|---:|---:|---|---:|---:|---:|---:|
{rows}

{_summary(record)}{_allowance(record)}

![loss curves](curves.png)"""


def _link(record: dict, name: str, row: dict) -> str:
    """A link to a seed's artifact; its hash where it is not published."""
    file = artifacts.artifact_file(row["seed"])
    if row["artifact_file"]:
        return f"[{file}]({file})"
    if record["hub"] is None:
        return f"sha256 {row['artifact_sha256']}"
    path = artifacts.hub_path(record["track"], name, file)
    return f"[{file}]({artifacts.hub_url(record['hub']['repo'], record['hub']['revision'], path)})"


def _summary(record: dict) -> str:
    values = [row["bpb"] for row in record["seeds"]]
    spread = ""
    if len(values) > 1:
        low, high = mean_interval(values)
        spread = (
            f", standard deviation {record['bpb_sd']:.4f} (n - 1), "
            f"95% interval of the mean {low:.4f} to {high:.4f} (Student's t, df = {len(values) - 1})"
        )
    return (
        f"Mean {record['bpb_mean']:.4f} bpb{spread}. The seeds are the first {len(values)} that commit "
        f"{record['seed_commit'][:12]} draws. Seed {record['artifact']['seed']} is the median."
    )


def _allowance(record: dict) -> str:
    """How many tokens each run was allowed, where the speed ratio to record 0001 sets it."""
    par = record["par"]
    if par is None:
        return ""
    tokens = TRACKS[record["track"]].allowed_tokens(par["low"])
    return f"""

The script trains r = {par["ratio"]:.3f} times as fast as record 0001's (95% interval {par["low"]:.3f} to \
{par["high"]:.3f}, {par["rounds"]} rounds of `golf par`) on a processor of class {par["processor_class"]} \
({markdown(par["processor"])}). The lower end allows {tokens:,} tokens a run."""


def _again(record: dict, name: str, run: dict, flags: list[str]) -> str:
    folder, seed, world = f"records/{record['track']}/{name}", record["artifact"]["seed"], run["world_size"]
    out = f"runs/{name}_s{seed}"
    start = "python" if world == 1 else f"torchrun --standalone --nproc_per_node={world}"
    arguments = [f"{folder}/train_gpt.py", f"--preset={run['preset']}", *flags, f"--seed={seed}", f"--run_dir={out}"]
    return f"""## Run it again

From the root of the repository, with the environment that `make venv` builds and the data in `{run["data"]["dir"]}`. \
One command trains a seed in a box, packs, scores and compares it:

```
golf reproduce {folder}
```

By hand:

```
{start} {shlex.join(arguments)}
python -m compress pack {out}
python eval_heldout.py {out}/model.golf {_data_options(record, run)}
```"""


def _score(record: dict, name: str, run: dict) -> str:
    """How to score the median seed's artifact."""
    folder, seed = f"records/{record['track']}/{name}", record["artifact"]["seed"]
    path, fetch = f"{folder}/{artifacts.artifact_file(seed)}", ""
    if record["artifact"]["file"] is None:
        if record["hub"] is None:
            return "The artifacts are too large to be committed, and are not published yet."
        hub = record["hub"]
        fetch = f"hf download {hub['repo']} {path} --revision {hub['revision']} --local-dir .\n"
    return f"""Score an artifact as it is, here the median seed's; `golf check {folder}` scores all of them:

```
{fetch}python eval_heldout.py {path} {_data_options(record, run)}
```"""


def _data_options(record: dict, run: dict) -> str:
    return shlex.join(["--data", run["data"]["dir"], "--split", record["data"]["split"]])


def write(folder: Path, record: dict, run: dict, flags: list[str]) -> None:
    """Writes README.md into a record's folder."""
    (folder / "README.md").write_text(text(record, folder.name, run, flags), encoding="utf-8")
