"""The words in which the leaderboard shows what is known of a record, one function for each column: plain text.

Not covered: making a stranger's words harmless (whoever shows them does: golf/foreign.py, jinja2).
"""


def audited(row: dict) -> str:
    """Of how many seeds the artifact was audited and certified, by whom, and when. row: of standing.survey()."""
    found, seeds = row["scored"], row["seeds"]
    if found["by"] is None:
        return "no"
    who = {"record": "own", "others": "again", "both": "own and again"}[found["by"]]
    return f"{found['audited']}/{seeds}, certified {found['certified']}/{seeds} ({who}, {found['date']})"


def reproduced(row: dict) -> str:
    """How often the script was trained again, the mean bpb, and its difference to the claim."""
    found = row["reproduced"]
    return f"{found['times']}: {found['bpb_mean']:.4f} ({found['difference']:+.4f})" if found["times"] else "no"


def claim(row: dict) -> str:
    """p against the row before, the decision, the test, and the rivals."""
    found = row["against"]
    if found is None:
        return "first"
    number = found["record"].split("/")[1].split("_")[0]
    if found["problem"] is not None:
        return f"not compared with {number}"
    plural = "" if found["rivals"] == 1 else "s"
    rivals = f"{found['rivals']} rival{plural}" if found["rivals_stated"] else "rivals not stated"
    word = "proven" if found["proven"] else "not proven"
    return f"{found['p']:.2g}, {word} over {number} ({found['test']}, {rivals})"


def speed(row: dict) -> str:
    """The speed ratio where the record has one, and the machine."""
    return f"{row['par']['ratio']:.2f}, {row['machine']}" if row["par"] else row["machine"]


def marks(row: dict) -> list[str]:
    """What the site's filter can ask for: words that hold of a record."""
    found = [row["scope"]]
    if row["scored"]["audited"] == row["seeds"]:
        found.append("audited")
    if row["scored"]["certified"] == row["seeds"]:
        found.append("certified")
    if row["reproduced"]["times"]:
        found.append("reproduced")
    if row["against"] is not None and row["against"]["proven"]:
        found.append("proven")
    return found
