"""The ideas' steps do what they say, and what they gain is counted right. Small data, few steps."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fairclip import FairClipper, GroupEncoder, NormCap, TargetCap
from fairclip.training import FairStep, Step, TargetStep, make_mlp
from tests.benchmarks._idea_adam import preconditioned
from tests.benchmarks._idea_gains import VIEWS, area, gain
from tests.benchmarks._idea_head import in_head, of_head
from tests.benchmarks._idea_lines import lines
from tests.benchmarks._idea_memory import from_step, leak, nothing
from tests.benchmarks._idea_rates import HeldBackStep, at_cut, hold_back, shrunk, soft
from tests.benchmarks._idea_ratio import ratio_by_target
from tests.benchmarks._idea_reference import highest_loss
from tests.benchmarks._idea_rule import Rule
from tests.benchmarks._idea_rules import rules
from tests.benchmarks._idea_runs import FIGURES, rows_of
from tests.benchmarks._idea_setting import SETTINGS, Run
from tests.benchmarks._idea_share import by_share, shares
from tests.benchmarks._idea_steps import Contributions, MixedStep, ObservedStep
from tests.benchmarks._idea_two_knobs import two_knobs
from tests.benchmarks.cap_ideas import PATH, read

B, D = 120, 5
CAP = NormCap(max_ratio=0.5, smoothing=0.0, min_reference_rows=1)


def row_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(outputs.squeeze(1), targets, reduction="none")


class Batch:
    """One batch of two groups with two labels, a network and the encoder of the cells."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        sex, y = generator.random(B) < 0.3, generator.random(B) < 0.4
        frame = pd.DataFrame({"sex": np.where(sex, "f", "m")})
        self.encoder = GroupEncoder(with_label=True).fit(frame, y.astype(int))
        self.groups = torch.from_numpy(self.encoder.transform(frame, y.astype(int)))
        self.inputs = torch.from_numpy(generator.normal(size=(B, D))).float()
        self.targets = torch.from_numpy(y).float()
        self.model = make_mlp(D, 1, (4,), seed=0)

    def gradient(self, step: Step, groups: Tensor | None = None) -> Tensor:
        """Return what a step leaves, (P,)."""
        self.model.zero_grad()
        step(
            self.model,
            self.inputs,
            self.targets,
            self.groups if groups is None else groups,
            row_losses,
        )
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])

    def mixed(self, factors: Callable[[Contributions], Tensor]) -> Tensor:
        """Return what a step with these factors leaves, (P,)."""
        return self.gradient(MixedStep(self.model, self.encoder, factors))

    def contributions(self) -> Contributions:
        """Return what a step with its factors sees."""
        seen = []

        def look(found: Contributions) -> Tensor:
            seen.append(found)
            return torch.ones(4)

        self.mixed(look)
        return seen[0]


@pytest.fixture
def batch() -> Batch:
    return Batch()


@lru_cache
def german() -> Run:
    return Run.of(replace(SETTINGS[0], epochs=1), seed=0)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
@pytest.mark.filterwarnings("ignore::fairclip.FairclipWarning")  # German has small cells
def test_every_rule_trains(rule: Rule) -> None:
    rows = pd.DataFrame(rows_of(german(), rule, rule.strengths[-1]))
    assert {rule.name, rule.then_cut} - {""} <= set(rows["rule"])
    assert rows[list(FIGURES)].to_numpy().min() >= 0
    assert sorted(rows.loc[rows["rule"] == rule.name, "part"]) == ["test", "validation"]


def test_a_mixed_step_with_the_norms_is_the_product_cap(batch: Batch) -> None:
    state = CAP.init(batch.encoder.counts_, batch.encoder.strata_)
    mixed = batch.mixed(lambda found: found.cap(CAP, found.gradients.norm(dim=1), state))
    product = batch.gradient(FairStep(FairClipper(batch.model, CAP, encoder=batch.encoder)))
    torch.testing.assert_close(mixed, product)


def test_an_observed_step_with_hits_is_the_product_target_cap(batch: Batch) -> None:
    cap = TargetCap("equalized_odds", gap=0.0, rate=1.0, min_reference_rows=1)
    clipper = FairClipper(batch.model, cap, encoder=batch.encoder)
    product = batch.gradient(TargetStep(clipper, lambda outputs: outputs.squeeze(1) > 0))
    observed = batch.gradient(ObservedStep(cap, batch.encoder))
    torch.testing.assert_close(observed, product)


def test_soft_rates_are_the_probability_of_the_true_class() -> None:
    rates = soft(torch.tensor([0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 0.0]))
    expected = torch.tensor([0.5, 0.8808, 0.1192], dtype=torch.float64)
    torch.testing.assert_close(rates, expected, atol=1e-4, rtol=0)


def test_rates_at_a_cut_count_predictions_at_it() -> None:
    scores = torch.tensor([0.2, 0.4, 0.2, 0.4])
    targets = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert at_cut(0.3)(scores.logit(), targets).tolist() == [0, 1, 1, 0]


def test_shrunk_rates_are_between_their_own_and_the_label_s(batch: Batch) -> None:
    rows = torch.full((4,), 10.0)
    hits = torch.tensor([2.0, 3.0, 8.0, 9.0])
    labels = torch.as_tensor(batch.encoder.strata_)
    of_label = torch.stack([hits[labels == y].mean() for y in labels]).double()
    torch.testing.assert_close(
        shrunk(batch.encoder, 0)(hits.double(), rows.double()), hits.double()
    )
    far = shrunk(batch.encoder, 1e12)(hits.double(), rows.double())
    torch.testing.assert_close(far, of_label)


def test_factors_without_memory_are_proportional_to_the_gaps(batch: Batch) -> None:
    cap = TargetCap("worst_cell", gap=0.0, rate=2.0, smoothing=0.0, floor=0.0, min_reference_rows=1)
    rates = torch.where(batch.groups == 0, 0.5, 1.0).double()
    step = ObservedStep(cap, batch.encoder, keep=nothing)
    factors = [step.observe(rates, batch.groups) for _ in range(3)]
    expected = torch.tensor([1.0, *[float(np.exp(-2 * 0.5))] * 3, 1.0])
    torch.testing.assert_close(factors, [expected] * 3)


@pytest.mark.parametrize(("keep", "powers"), [(leak(0.5), [1, 1.5]), (from_step(2), [1, 1, 2])])
def test_what_is_forgotten_comes_off_the_logarithms(
    batch: Batch, keep: Callable[[int], float], powers: list[float]
) -> None:
    cap = TargetCap("worst_cell", gap=0.0, rate=1.0, smoothing=0.0, floor=0.0, min_reference_rows=1)
    rates = torch.where(batch.groups == 0, 0.5, 1.0).double()
    step = ObservedStep(cap, batch.encoder, keep=keep)
    found = [float(step.observe(rates, batch.groups)[1].log()) for _ in powers]
    np.testing.assert_allclose(found, -0.5 * np.array(powers), rtol=1e-5)


def test_held_back_rows_are_observed_and_not_trained_on(batch: Batch) -> None:
    codes = torch.from_numpy(hold_back(batch.groups.numpy(), 4, seed=0))
    held = codes >= 4
    assert 0.19 < held.float().mean() < 0.25
    assert torch.equal(codes % 4, batch.groups)
    step = HeldBackStep(
        TargetCap("equalized_odds", gap=1.0, min_reference_rows=1), batch.encoder
    )  # weighs nothing
    found = batch.gradient(step, codes)
    batch.inputs, batch.targets = batch.inputs[~held], batch.targets[~held]
    plain = ObservedStep(TargetCap("equalized_odds", gap=1.0, min_reference_rows=1), batch.encoder)
    torch.testing.assert_close(found, batch.gradient(plain, batch.groups[~held]))
    assert int(step.state.n_observations[0]) == 1


def test_a_group_that_pulls_against_the_update_has_no_share() -> None:
    gradients = torch.tensor([[3.0, 0.0], [-1.0, 1.0]])
    found = Contributions(gradients, gradients.sum(0), *[torch.ones(2)] * 5)
    torch.testing.assert_close(shares(found), torch.tensor([6 / 5**0.5, 0.0]))


def test_a_cap_of_the_shares_bounds_them(batch: Batch) -> None:
    gradients = torch.eye(4) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None] + 0.1
    found = Contributions(gradients, gradients.sum(0), torch.ones(4).long(), *[torch.ones(4)] * 4)
    rule = by_share(replace(CAP, reference=0, floor=0.0), batch.encoder)
    capped = rule(found) * shares(found)
    torch.testing.assert_close(capped[1:], 0.5 * capped[:1].expand(3))


def test_a_cap_of_the_head_leaves_the_other_layers(batch: Batch) -> None:
    head = in_head(batch.model)
    capped = batch.mixed(of_head(CAP, batch.encoder, batch.model))
    plain = batch.mixed(lambda found: torch.ones(4))
    assert int(head.sum()) == 4 + 1
    torch.testing.assert_close(capped[~head], plain[~head])
    assert not torch.allclose(capped[head], plain[head])


def test_after_one_step_adam_makes_every_component_1() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).pow(2).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(preconditioned(gradient[None], optimizer)[0], gradient.norm())
    optimizer.step()
    torch.testing.assert_close(
        preconditioned(gradient[None], optimizer)[0], torch.tensor(8.0).sqrt()
    )


def test_two_knobs_turn_one_by_one(batch: Batch) -> None:
    found = batch.contributions()
    free, within = replace(CAP, max_ratio=1e9), replace(CAP, within="label", max_ratio=1e9)
    labels = torch.as_tensor(batch.encoder.strata_)
    torch.testing.assert_close(two_knobs(within, free, batch.encoder)(found), torch.ones(4))
    between = two_knobs(within, CAP, batch.encoder)(found)
    assert sorted({round(float(f), 6) for f in between}) != [1.0]
    assert all(len(set(between[labels == y].tolist())) == 1 for y in (0, 1))
    inside = two_knobs(replace(CAP, within="label"), free, batch.encoder)(found)
    assert all(len(set(inside[labels == y].tolist())) == 2 for y in (0, 1))


def test_the_reference_is_the_group_with_the_highest_loss(batch: Batch) -> None:
    found = batch.contributions()
    losses = torch.where(batch.groups == 2, 5.0, 1.0)
    factors = highest_loss(replace(CAP, floor=0.0), batch.encoder)(replace(found, losses=losses))
    norms = found.gradients.norm(dim=1)
    expected = (0.5 * norms[2] / norms).clamp(max=1)
    expected[2] = 1
    torch.testing.assert_close(factors, expected)


@pytest.mark.parametrize(("gap", "acts"), [(1.0, False), (0.0, True)])
def test_a_target_lowers_the_ratio_while_its_gap_is_open(
    batch: Batch, gap: float, acts: bool
) -> None:
    rule = ratio_by_target(
        replace(CAP, within="label"), batch.encoder, gap, rate=100.0, smoothing=0.0
    )
    found = batch.contributions()
    assert torch.equal(rule(found), torch.ones(4)) is not acts


def runs_of(points: dict[tuple[str, float], tuple[float, float, float]]) -> pd.DataFrame:
    """Return two seeds of rules with these accuracies, worst cells and balanced accuracies."""
    return pd.DataFrame(
        [
            {
                "seed": seed,
                "rule": rule,
                "strength": strength,
                "part": part,
                "accuracy": accuracy,
                "worst_cell_accuracy": worst,
                "equalized_odds_difference": 1 - worst,
                "balanced_accuracy": balanced,
                "auc": 0.8,
                "selects": 1,
            }
            for (rule, strength), (accuracy, worst, balanced) in points.items()
            for seed in (0, 1)
            for part in ("validation", "test")
        ]
    )


def test_areas_by_hand() -> None:
    runs = runs_of(
        {
            ("unclipped", 0.0): (0.8, 0.5, 0.7),
            ("cap", 1.0): (0.75, 0.6, 0.75),
            ("cap", 2.0): (0.74, 0.55, 0.7),  # dominated
        }
    )
    # 50 points over the whole budget, 10 more over half of it.
    np.testing.assert_allclose(area(runs, "cap", VIEWS[0]), 55.0)
    # Balanced accuracy moved by 0.05: of the valid ones only the dominated arm is left.
    np.testing.assert_allclose(area(runs, "cap", VIEWS[1]), 50.0 + 0.4 * 5)
    found = gain(area(runs, "cap", VIEWS[0]), area(runs, "unclipped", VIEWS[0]))
    np.testing.assert_allclose([found.mean, found.low, found.high], 5.0)


def test_the_page_shows_the_table_s_figures() -> None:
    page = Path(__file__).parents[2] / "docs" / "ideas.md"
    assert page.read_text(encoding="utf-8").endswith("\n".join(lines(read(PATH))) + "\n")
