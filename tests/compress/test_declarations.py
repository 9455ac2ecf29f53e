"""What a checkpoint declares of its parameters, and a matrix that has no statistics beside others that have.

Not covered: how a script declares (tests/train/test_declarations.py).
"""

import math

import pytest
import torch

from compress.checkpoint import RunError, load_checkpoint, load_statistics
from compress.pack import pack_run
from compress.quantise import make_plan
from tests.support.packed import make_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_boxes")]

MISSING = "blocks.1.up.weight"


def declared(model):
    """As a script declares it, of the toy's parameters."""
    result = {}
    for name, tensor in model.items():
        group = "embedding" if name == "embed.weight" else "muon" if tensor.ndim == 2 else "scalar"
        result[name] = {"group": group, "rows": list(tensor.shape[:1])}
    return result


def without(folder, name):
    """The run again, without the statistics of one matrix."""
    statistics = torch.load(folder / "statistics.pt")
    del statistics["linear"][name]
    torch.save(statistics, folder / "statistics.pt")


def test_one_matrix_without_statistics_costs_that_matrix_alone(tmp_path):
    run = make_run(tmp_path / "run")
    model = load_checkpoint(run).model
    whole = make_plan(model, load_statistics(run, model))
    without(run, MISSING)
    plan = make_plan(model, load_statistics(run, model))
    assert [line for line in plan.warnings if MISSING in line and "no usable statistics" in line]
    for name, steps in plan.matrices.items():
        same = torch.equal(steps.rows, whole.matrices[name].rows) and steps.base == whole.matrices[name].base
        assert same == (name != MISSING)
    # the formula written out: all weights cost alike, in all as much as the median matrix for its size
    costs = []
    for name, steps in whole.matrices.items():
        if name != MISSING:
            curvature = steps.known.rows.mean() * steps.known.hessian.diagonal().mean()
            costs.append((curvature * model[name].double().square().mean()).item())
    each = (
        sorted(costs)[len(costs) // 2 - 1 : len(costs) // 2 + 1]
        if len(costs) % 2 == 0
        else [sorted(costs)[len(costs) // 2]]
    )
    curvature = sum(each) / len(each) / model[MISSING].double().square().mean().item()
    steps = plan.matrices[MISSING]
    assert not steps.columns.any() and not steps.rows.any()
    assert steps.base / 4 == pytest.approx(-0.5 * math.log2(curvature), abs=0.13)  # quarter octaves


def test_packing_without_the_statistics_of_one_matrix_says_so_and_still_knows_what_it_costs(tmp_path):
    run = make_run(tmp_path / "run")
    without(run, MISSING)
    report = pack_run(run, tmp_path / "m.golf", track="pocket")
    assert any(MISSING in line for line in report["warnings"])
    losses = {row["type"]: row["actual"] for row in report["types"]}
    assert all(math.isfinite(loss) and loss >= 0 for loss in losses.values())


def test_a_declared_embedding_is_one_whatever_its_name(tmp_path):
    def rename(checkpoint):
        checkpoint["parameters"] = declared(checkpoint["model"])
        for part in (checkpoint["model"], checkpoint["parameters"]):
            part["lookup"] = part.pop("embed.weight")

    named, renamed = make_run(tmp_path / "named"), make_run(tmp_path / "renamed", edit=rename)
    first, second = load_checkpoint(named), load_checkpoint(renamed)
    assert first.groups == {} and second.groups["lookup"] == "embedding"
    expected = make_plan(first.model, None).matrices["embed.weight"].base
    assert make_plan(second.model, None, groups=second.groups).matrices["lookup"].base == expected
    assert make_plan(second.model, None).matrices["lookup"].base == expected + 12  # by names: three octaves coarser


@pytest.mark.parametrize("parameters, says", [
    ([], "parameters"), ({"x": {"group": "muon"}}, "not those of its model"), ("no group", "no group is declared for"),
    ("no dict", "no group is declared for"),
])  # fmt: skip
def test_a_declaration_that_does_not_fit_is_one_line(tmp_path, parameters, says):
    def edit(checkpoint):
        checkpoint["parameters"] = parameters
        if isinstance(parameters, str):
            value = {"rows": [1]} if parameters == "no group" else 3
            checkpoint["parameters"] = dict.fromkeys(checkpoint["model"], value)

    with pytest.raises(RunError, match=says) as caught:
        load_checkpoint(make_run(tmp_path / "run", edit=edit))
    assert "\n" not in str(caught.value)
