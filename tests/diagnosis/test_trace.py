"""Diagnosis of a run from the record of its steps."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from fairclip.clipping import Norm, Update
from fairclip.diagnosis import Diagnosis
from fairclip.trace import Trace
from tests.diagnosis._properties import assert_nothing, assert_only


def run(n: int = 200, seed: int = 0, decay: float = 0.99) -> pd.DataFrame:
    """Return a healthy run: noisy norms that fall, clipped at 1, and Adam's updates."""
    rng = np.random.default_rng(seed)
    norms = 5 * decay ** np.arange(n) * rng.lognormal(0, 0.5, n)
    return pd.DataFrame(
        {
            "step": np.arange(n),
            "norm_uncapped": norms,
            "norm_capped": norms,
            "norm_clipped": norms.clip(max=1),
            "nonfinite": False,
            "update_norm": 0.02 * rng.lognormal(0, 0.3, n),
            "update_ratio": 2e-3 * rng.lognormal(0, 0.3, n),
        }
    )


def trained(lr: float) -> Trace:
    """Train for 60 steps, with a clip and the measure of the update attached."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    trace = Trace()
    Norm(max_norm=1.0).attach(optimizer, trace=trace)
    Update(max_norm=math.inf).attach(optimizer, trace=trace)
    inputs = torch.randn(64, 8)
    for _ in range(60):
        optimizer.zero_grad()
        (model(inputs) - inputs[:, :1]).square().mean().backward()
        optimizer.step()
    return trace


def test_a_real_run_with_a_learning_rate_that_is_usual_and_one_that_is_not() -> None:
    assert_nothing(Diagnosis.from_trace(trained(lr=1e-3)))
    assert_only(Diagnosis.from_trace(trained(lr=1.0)), "learning rate", "the 20 steps")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decay", [1.0, 0.99, 0.9])
def test_nothing_is_found_in_a_healthy_run(seed: int, decay: float) -> None:
    assert_nothing(Diagnosis.from_trace(run(seed=seed, decay=decay)))


def test_a_spike() -> None:
    frame = run()
    frame["norm_uncapped"] *= np.where(frame["step"] == 120, 1e4, 1)
    assert_only(Diagnosis.from_trace(frame), "exploding gradients", "step 120")


def test_growth() -> None:
    assert_only(Diagnosis.from_trace(run(decay=1.06)), "exploding gradients", "steps 0 to 199")


def test_convergence_is_no_vanishing_unless_nothing_moves_any_more() -> None:
    frame = run(decay=0.9)
    frame["norm_clipped"] = 1.0
    assert_nothing(Diagnosis.from_trace(frame))
    frame["update_ratio"] *= 0.9 ** frame["step"]
    assert_only(Diagnosis.from_trace(frame), "vanishing gradients", "steps 0 to 199")


def test_the_learning_rate() -> None:
    frame = run()
    frame["update_ratio"] *= 200
    finding = assert_only(Diagnosis.from_trace(frame), "learning rate", "the 20 steps up to")
    assert finding.value == pytest.approx(0.5, rel=0.1)


def test_an_update_that_the_clipped_gradient_does_not_account_for() -> None:
    frame = run()
    step = int(frame["norm_clipped"].to_numpy().argmin())
    frame.loc[step, "update_norm"] = 5
    assert_only(Diagnosis.from_trace(frame), "large update", f"step {step}")


SCHEDULES: dict[str, tuple[Any, dict[str, float]]] = {
    "exponential": (lr_scheduler.ExponentialLR, {"gamma": 0.98}),
    "steps": (lr_scheduler.StepLR, {"step_size": 75}),
    "warm-up": (lr_scheduler.LinearLR, {"start_factor": 1e-3, "total_iters": 100}),
    "restarts": (lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 75, "eta_min": 1e-5}),
    "unclipped": (lr_scheduler.ExponentialLR, {"gamma": 0.98}),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_are_no_large_updates(schedule: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kind, options = SCHEDULES[schedule]
    scheduler = kind(optimizer, **options)
    trace = Trace()
    Norm(max_norm=1e9 if schedule == "unclipped" else 0.05).attach(optimizer, trace=trace)
    Update(max_norm=math.inf).attach(optimizer, trace=trace)
    for _ in range(300):
        inputs = torch.randn(64, 8)
        optimizer.zero_grad()
        (model(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    assert_nothing(Diagnosis.from_trace(trace))


def test_a_large_update_under_a_schedule() -> None:
    frame = run()
    frame["norm_clipped"] = np.where(frame["step"] == 150, 0.05 + 1e-8, 0.05)
    frame["update_norm"] = 0.01 * 0.98 ** frame["step"]
    assert_nothing(Diagnosis.from_trace(frame))
    frame.loc[150, "update_norm"] = 0.01  # 20 times what is usual then, and as at the start
    assert_only(Diagnosis.from_trace(frame), "large update", "step 150")


def test_steps_that_are_counted_twice() -> None:
    """As when a run is resumed from a checkpoint and both traces are joined."""
    frame = pd.concat([run(), run()[150:]])
    assert_nothing(Diagnosis.from_trace(frame))
    frame["norm_uncapped"] *= np.where(np.arange(len(frame)) == 220, 1e4, 1)
    assert_only(Diagnosis.from_trace(frame), "exploding gradients", "step 170")
    frame["norm_uncapped"] *= 1.06 ** np.arange(len(frame))
    frame.loc[frame.index == 160, ["nonfinite", "update_norm"]] = [True, 0.5]
    assert Diagnosis.from_trace(frame).findings


def test_too_few_steps_are_said_to_be_too_few() -> None:
    text = str(Diagnosis.from_trace(run(n=1)))
    assert text.startswith("Nothing was found in 5 measurements.")
    assert "exploding gradients (run): needs 20 steps with norm_uncapped, got 1" in text
    assert "Not measured" not in str(Diagnosis.from_trace(run(n=20)))


def test_non_finite_steps() -> None:
    frame = run()
    frame.loc[[30, 31], "nonfinite"] = True
    frame.loc[[30, 31], ["norm_uncapped", "norm_clipped"]] = [np.inf, np.nan]
    finding = assert_only(Diagnosis.from_trace(frame), "non-finite values", "step 30")
    assert finding.value == 2
    frame["first_nonfinite"] = np.where(frame["nonfinite"], "0.weight", "")
    frame["nonfinite[a]"], frame["nonfinite[b]"] = False, frame["nonfinite"]
    (finding,) = Diagnosis.from_trace(frame).findings
    assert finding.where == "step 30, 0.weight, b"


def test_missing_columns_and_few_steps_are_not_measured() -> None:
    assert_nothing(Diagnosis.from_trace(pd.DataFrame({"norm_clipped": [1.0, 1e9]})))
    frame = run().drop(columns=["norm_uncapped", "step"])
    assert_nothing(Diagnosis.from_trace(frame))
    measured = Diagnosis.from_trace(frame).to_frame().query("note == ''")
    assert set(measured["quantity"]) == {
        "norm_clipped", "update_norm", "update_ratio", "nonfinite"
    }  # fmt: skip
    assert_nothing(Diagnosis.from_trace(run(n=0)))


def test_what_is_no_trace_is_rejected() -> None:
    wrong: Any = [1.0]
    with pytest.raises(TypeError, match=r"`trace` must be a Trace or its frame, got list"):
        Diagnosis.from_trace(wrong)
    with pytest.raises(ValueError, match=r"`trace` must have one of the columns norm_uncapped"):
        Diagnosis.from_trace(pd.DataFrame({"loss": [1.0]}))
