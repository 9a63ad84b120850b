"""Lagged factors against those of an exact cap at the same weights, on Adult."""

import copy
from itertools import chain, islice, pairwise, repeat
from typing import Literal

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from fairclip import FairClipper, GroupBatchSampler, GroupEncoder, NormCap
from fairclip.datasets import load_adult

N_STEPS, N_FIRST = 900, 300


@pytest.fixture(scope="module")
def adult() -> tuple[Tensor, Tensor, Tensor, GroupEncoder]:
    data = load_adult()
    inputs = torch.tensor(pd.get_dummies(data.X).to_numpy("float32"))
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-6)
    targets = torch.tensor(data.y.to_numpy())
    sex = data.sensitive_features["sex"]
    encoder = GroupEncoder(with_label=True).fit(sex, targets)
    return inputs, targets, torch.as_tensor(encoder.transform(sex, targets)), encoder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("within", "in_the_mean", "in_95_of_100"), [("all", 0.07, 0.18), ("label", 0.035, 0.09)]
)
def test_lagged_factors_are_near_the_exact_ones_where_the_cap_acts(
    within: Literal["all", "label"],
    in_the_mean: float,
    in_95_of_100: float,
    adult: tuple[Tensor, Tensor, Tensor, GroupEncoder],
) -> None:
    inputs, targets, codes, encoder = adult
    torch.manual_seed(0)
    sizes = (inputs.shape[1], 64, 64)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 2))
    shadow = copy.deepcopy(model)
    lagged, exact = (
        FairClipper(m, NormCap(within=within), encoder=encoder) for m in (model, shadow)
    )
    optimizer = torch.optim.Adam(model.parameters())
    criterion = nn.CrossEntropyLoss(reduction="none")
    found, expected = [], []
    sampler = GroupBatchSampler(codes, batch_size=256)
    for rows in islice(chain.from_iterable(repeat(sampler)), N_STEPS):
        shadow.load_state_dict(model.state_dict())
        shadow.zero_grad()
        with exact.watch(codes[rows]):
            criterion(shadow(inputs[rows]), targets[rows]).mean().backward()
        expected.append(exact.clip_grad_().factors)
        losses = criterion(model(inputs[rows]), targets[rows])
        lagged.weigh(losses, codes[rows]).mean().backward()
        found.append(lagged.clip_grad_().factors)
        optimizer.step()
        optimizer.zero_grad()
    lag, right = torch.stack(found)[N_FIRST:], torch.stack(expected)[N_FIRST:]
    acts = (right - 1).abs() > 1e-3  # factors that are 1 in both would dilute the error
    assert acts.double().mean() > 0.4
    off = (lag / right - 1)[acts].abs()
    assert off.mean() < in_the_mean
    assert off.quantile(0.95) < in_95_of_100
    assert (lag.mean(0) / right.mean(0) - 1).abs().max() < 0.04
