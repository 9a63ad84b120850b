"""What looks like a fault at first sight and is none; beside it, the fault that it looks like."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fairclip.diagnosis import diagnose
from tests.diagnosis._models import Case, Residual, by_row, cnn, images, labels, mlp, squared
from tests.diagnosis._properties import assert_nothing, assert_only


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class LoRA(nn.Module):
    """A frozen layer with a trainable update of rank 4 that starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.down, self.up = nn.Linear(width, 4, bias=False), nn.Linear(4, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.frozen(x) + self.up(self.down(x))
        return result


class Gain(nn.Module):
    """Multiply by a scalar that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gain = nn.Linear(32, 32), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.gain * self.inner(x)
        return result


def _zeroed_gamma() -> nn.Module:
    norm = nn.BatchNorm1d(32)
    nn.init.zeros_(norm.weight)
    return Residual(nn.Sequential(nn.Linear(32, 32), norm))


@pytest.mark.parametrize("start", [LoRA(32), Residual(Gain()), _zeroed_gamma()])
def test_a_branch_that_starts_at_zero(start: nn.Module) -> None:
    case = Case(nn.Sequential(start, nn.ReLU(), LoRA(32)), torch.randn(64, 32), labels(64, 32))
    assert_nothing(case.diagnose())


def test_a_small_output_layer_that_starts_at_zero() -> None:
    model = mlp(8, 64, 64, 1)
    nn.init.zeros_(model[-1].weight)
    case = Case(model, torch.randn(64, 8), torch.randn(64, 1), squared)
    assert_nothing(case.diagnose())
    model[-1].bias.data.zero_()
    nn.init.normal_(model[-1].weight)
    model[2].bias.data.fill_(-10)  # a zero bias is no excuse for dead units
    assert_only(case.diagnose(), "vanishing gradients", "0")


def test_a_mask_among_the_inputs() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 16)
            self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.head = nn.Linear(16, 5)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            scores: Tensor = self.head(self.encoder(self.embedding(ids), src_mask=mask).mean(1))
            return scores

    mask = nn.Transformer.generate_square_subsequent_mask(12)
    case = Case(Masked(), (torch.randint(50, (64, 12)), mask), labels())
    assert_nothing(case.diagnose())
    mask[3, 0] = math.nan
    assert_only(case.diagnose(), "non-finite values", "input 0")
    mask[3, 0] = math.inf  # of the wrong sign
    assert_only(case.diagnose(), "non-finite values", "input 0")


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrised_layers(kind: str) -> None:
    parametrised = getattr(parametrizations, kind)
    model = nn.Sequential(
        parametrised(nn.Linear(16, 32, bias=False)), nn.ReLU(), parametrised(nn.Linear(32, 5))
    )
    case = Case(model, torch.rand(64, 16), labels())
    diagnosis = case.diagnose()
    assert_nothing(diagnosis)
    assert list(diagnosis.measurements.of("output gradient norm")) == ["0", "2"]
    assert list(diagnosis.measurements.of("weight scale")) == ["0.weight"]
    case.inputs *= 1000
    assert_only(case.diagnose(), "input scale", "0, feature")


def test_an_auxiliary_head_that_counts_little() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head, self.h = mlp(13, 32, 32), nn.Linear(32, 5), nn.Linear(32, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.trunk(x)
            return self.head(hidden), self.h(hidden)

    def loss_fn(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        return by_row(outputs[0], targets) + 1e-4 * by_row(outputs[1], targets)

    case = Case(TwoHeads(), torch.randn(64, 13), labels(), loss_fn)
    assert_nothing(case.diagnose())
    case.model.trunk = mlp(13, *[32] * 60, 32, norm=nn.BatchNorm1d)
    assert_only(case.diagnose(), "exploding gradients", "trunk")


def _frozen(model: Any) -> nn.Module:
    frozen: nn.Module = model.requires_grad_(False)
    return frozen


def test_a_frozen_backbone_is_no_data() -> None:
    backbone = _frozen(cnn()[:-1])
    model = nn.Sequential(backbone, nn.Linear(32, 5))
    backbone.register_forward_hook(lambda *taken: 50 * taken[2])
    diagnosis = Case(model, images(), labels()).diagnose()
    assert_nothing(diagnosis)
    assert "0.0" in diagnosis.measurements.of("activation RMS")
    assert not diagnosis.measurements.of("input magnitude")
    assert "Not measured" in str(diagnosis)
    assert "frozen" in str(diagnosis)


def test_an_overflow_in_a_frozen_backbone() -> None:
    backbone = _frozen(mlp(13, 32, 32))
    nn.init.constant_(backbone[2].weight, 3e38)  # type: ignore[index]
    model = nn.Sequential(backbone, nn.Linear(32, 5))
    found = Case(model, torch.rand(64, 13), labels()).diagnose()
    assert_only(found, "non-finite values", "output of 0.2")


def test_what_is_no_activation_is_no_measurement() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    table = Case(model, torch.rand(64, 3, 4), labels()).diagnose().measurements
    assert list(table.of("activation RMS")) == ["1"]
    assert "output of 0" not in table.of("non-finite values")


def test_sparse_tables() -> None:
    """Rows of tf-idf have the norm 1, however many words there are."""
    words = torch.rand(2000, 5000) * (torch.rand(2000, 5000) < 0.005)
    words /= words.norm(dim=1, keepdim=True)
    words[:, 0] = 0
    words[:2, 0] = 1e-5  # a word in two texts has no scale
    assert_nothing(Case(mlp(5000, 32, 5), words, labels(2000)).diagnose())
    table = torch.nn.functional.one_hot(torch.randint(199, (2000,)), 200).float()
    table[:, 199] = 0
    table[:10, 199] = 0.04
    case = Case(mlp(200, 32, 5), table, labels(2000))
    assert_nothing(case.diagnose())
    table[:, 199] *= 1e-3
    assert_only(case.diagnose(), "input scale", "feature 199")


@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_sizes_whose_squares_float32_cannot_hold(size: float) -> None:
    model: Any = nn.Sequential(nn.Linear(13, 8), nn.Linear(8, 1))
    batch = (torch.randn(64, 13), torch.randn(64, 1))
    table = diagnose(model, batch, lambda x, y: size * squared(x, y).mean()).measurements
    norm = table.of("output gradient norm")["1"]
    assert 0.01 * size < norm < size
    model[1].weight.data.fill_(1e25)
    found = diagnose(model, batch, lambda x, y: squared(1e-25 * x, y))
    assert "unbounded activations" in {f.fault for f in (*found.findings, *found.symptoms)}
