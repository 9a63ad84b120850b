"""Advice: what a trace says about its stages, from real steps and from frames made by hand."""

import math
import multiprocessing
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import fairclip
from fairclip.clipping import Centralize, Chain, Mode, Norm, Normalize, Percentile, Update, Value


def trained(mode: Mode, n_steps: int = 50, *, scale: float = 1.0) -> fairclip.Trace:
    """A small regression by SGD; gradients have a norm near ``scale``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.named_parameters(), lr=1e-4)
    trace = fairclip.Trace()
    with mode.attach(optimizer, trace=trace):
        for _ in range(n_steps):
            optimizer.zero_grad()
            (scale * (model(torch.randn(16, 3)) - torch.randn(16, 1)).square().mean()).backward()
            optimizer.step()
    return trace


def verdicts(trace: fairclip.Trace) -> dict[str, str]:
    stages = fairclip.advise(trace).stages
    return dict(zip(stages["stage"] + "/" + stages["scope"], stages["verdict"], strict=True))


def test_a_threshold_far_above_the_norms_is_a_placebo() -> None:
    advice = fairclip.advise(trained(Norm(1e6)))
    row = advice.stages.iloc[0]
    assert (row["verdict"], row["acted"], row["kept"]) == ("placebo", 0, 1)
    assert "placebo" in str(advice)


def test_a_threshold_far_below_the_norms_stalls() -> None:
    row = fairclip.advise(trained(Norm(1e-3))).stages.iloc[0]
    assert row["verdict"] == "stalling"
    assert row["acted"] == 1
    assert row["kept"] < 0.01


def test_the_proposed_threshold_is_exceeded_by_one_gradient_in_ten() -> None:
    trace = trained(Norm(1e6), n_steps=200)
    proposed = fairclip.advise(trace).stages["proposed"].item()
    assert (trace.to_frame()["norm_before[Norm]"] > proposed).mean() == pytest.approx(0.1)
    again = fairclip.advise(trained(Norm(proposed), n_steps=200)).stages.iloc[0]
    assert again["verdict"] == "active"
    assert again["acted"] == pytest.approx(0.1, abs=0.02)


def test_each_stage_and_each_layer_has_a_verdict() -> None:
    mode = Chain(Value(1e3), Norm(1e-3, scope="layer", overrides={"2.*": 1e3}))
    assert verdicts(trained(mode)) == {
        "Value/all": "placebo",
        "Norm/all": "active",  # the last layer keeps the gradient long
        "Norm/0": "stalling",
        "Norm/2 (2.*)": "placebo",
    }


def test_with_several_scopes_each_has_its_own_proposal_and_the_whole_has_none() -> None:
    stages = fairclip.advise(trained(Norm(1e6, scope="layer"))).stages.set_index("scope")
    assert math.isnan(stages["proposed"]["all"])
    trace = trained(Norm(1e6, scope="layer")).to_frame()
    for scope in ("0", "2"):
        expected = trace[f"norm_before[Norm][{scope}]"].quantile(0.9)
        assert stages["proposed"][scope] == pytest.approx(expected)


@pytest.mark.parametrize("mode", [Normalize(1e-3), Centralize(), Norm(math.inf)], ids=repr)
def test_what_is_to_act_always_or_only_measures_has_no_verdict(mode: Mode) -> None:
    advice = fairclip.advise(trained(mode))
    assert advice.stages["verdict"].tolist() == [""]
    assert not advice.sentences()


def test_few_steps_have_no_verdict() -> None:
    assert verdicts(trained(Norm(1e-3), n_steps=19)) == {"Norm/all": "too few steps"}
    assert verdicts(trained(Norm(1e-3), n_steps=20)) == {"Norm/all": "stalling"}


def test_thresholds_that_follow_the_norms_do_not_act_where_the_norms_are_equal() -> None:
    trace, weight = fairclip.Trace(), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    Percentile().attach(optimizer, trace=trace)
    weight.grad = torch.ones(3)
    for _ in range(30):
        optimizer.step()
    assert fairclip.advise(trace).stages["acted"].item() == 0


def test_an_update_that_is_not_finite_after_a_finite_gradient_is_reported_as_such() -> None:
    trace, weight = fairclip.Trace(), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=math.inf)
    Norm(1.0).attach(optimizer, trace=trace)
    Update(math.inf).attach(optimizer, trace=trace)
    weight.grad = torch.ones(3)
    optimizer.step()
    found = fairclip.advise(trace).nonfinite.to_dict("records")
    assert [(row["step"], row["what"]) for row in found] == [(0, "update")]


def test_a_fair_step_has_a_row_for_the_cap_and_for_each_group_it_acted_on() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    clipper = fairclip.FairClipper(
        model, fairclip.NormCap.per_step(0.5), Norm(1e6), group_counts=[900, 100]
    )
    for _ in range(20):
        with clipper.watch(torch.tensor([0] * 18 + [1] * 2)):
            model(torch.randn(20, 3)).square().mean().backward()
        clipper.clip_grad_()
        model.zero_grad()
    stages = fairclip.advise(clipper.trace).stages.to_dict("records")
    assert [(row["stage"], row["scope"]) for row in stages] == [
        ("cap", "all"),
        ("cap", "0"),
        ("Norm", "all"),
    ]
    cap, majority, clip = stages
    assert cap["verdict"] == "active"
    assert -1 <= cap["cosine"] < 1
    assert majority["acted"] == 1
    assert majority["kept"] < 1
    assert clip["verdict"] == "placebo"


def test_no_share_of_a_norm_is_told_where_none_was_measured() -> None:
    model = nn.Linear(3, 2)
    cap = fairclip.TargetCap("worst_cell", gap=0.0, rate=1.0, floor=0.0)
    clipper = fairclip.FairClipper(model, cap, group_counts=[90, 90])
    codes = torch.tensor([0, 0, 1, 1])
    for _ in range(25):
        clipper.observe([1, 1, 1, 0], [1, 1, 1, 1], codes)
        losses = model(torch.randn(4, 3)).square().mean(1)
        clipper.weigh(losses, codes).mean().backward()
        clipper.clip_grad_()
        model.zero_grad()
    sentences = fairclip.advise(clipper.trace).sentences()
    assert sentences == ["cap: active; it acted in 100.0% of the steps."]


@pytest.mark.parametrize("clip", [None, Norm(1.0), Chain(Value(1.0), Norm(1.0))])
def test_what_is_not_finite_is_reported_with_parameter_group_and_step(clip: Mode | None) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    clipper = fairclip.FairClipper(model, clip=clip, group_counts=[50, 50])
    for step in range(5):
        inputs = torch.ones(6, 3)
        if step == 3:
            inputs[4, 0] = math.inf
        model.zero_grad()
        with clipper.watch([0, 0, 0, 0, 1, 1]):
            model(inputs).square().mean().backward()
        clipper.clip_grad_()
    advice = fairclip.advise(clipper.trace)
    found = advice.nonfinite.to_dict("records")
    assert [row["step"] for row in found] == [3]
    assert found[0]["parameter"] in dict(model.named_parameters())
    assert "1" in found[0]["groups"].split(", ")
    assert pd.isna(found[0]["rank"])
    assert "step 3" in str(advice)


def test_the_first_parameter_is_named_that_is_not_finite() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.0)
    trace = fairclip.Trace()
    Norm(1.0).attach(optimizer, trace=trace)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    bad = model.get_parameter("1.weight").grad
    assert bad is not None
    bad[0, 0] = math.nan
    optimizer.step()
    assert fairclip.advise(trace).nonfinite["parameter"].tolist() == ["1.weight"]


def _report_rank(store: str, queue: "multiprocessing.Queue[int]") -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=0, world_size=1
    )
    trace = fairclip.Trace()
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    Norm(1.0).attach(optimizer, trace=trace)
    weight.grad = torch.tensor([math.inf])
    optimizer.step()
    queue.put(int(fairclip.advise(trace).nonfinite["rank"].item()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_the_rank_is_reported_where_there_is_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=_report_rank, args=(str(tmp_path / "store"), queue))
    process.start()
    assert queue.get(timeout=120) == 0
    process.join()


def test_a_frame_that_was_written_and_read_gives_the_same_advice(tmp_path: Path) -> None:
    trace = trained(Norm(0.1))
    trace.to_frame().to_csv(tmp_path / "trace.csv", index=False)
    read = pd.read_csv(tmp_path / "trace.csv", keep_default_na=False, na_values=["", "nan"])
    pd.testing.assert_frame_equal(fairclip.advise(read).stages, fairclip.advise(trace).stages)


def test_a_trace_without_steps_is_rejected() -> None:
    with pytest.raises(ValueError, match="`trace` has no steps yet"):
        fairclip.advise(fairclip.Trace(["a", "b"]))
    with pytest.raises(TypeError, match="`trace` must be a Trace or its frame, got str"):
        fairclip.advise("trace.csv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`trace` must have the column step"):
        fairclip.advise(pd.DataFrame({"loss": [1.0]}))
