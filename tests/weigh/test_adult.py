"""Lagged factors against those of an exact cap at the same weights, on Adult."""

import copy
from itertools import chain, islice, pairwise, repeat

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
@pytest.mark.parametrize("within", ["all", "label"])
def test_lagged_factors_are_the_exact_ones_to_a_few_percent(
    within: str, adult: tuple[Tensor, Tensor, Tensor, GroupEncoder]
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
    assert right.min() < 0.9  # the cap acts
    assert (lag / right - 1).abs().mean() < 0.06
    assert (lag.mean(0) / right.mean(0) - 1).abs().max() < 0.06
