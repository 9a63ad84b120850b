"""Each fault is planted in a model that is healthy without it: it is found, and only it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.diagnosis._models import (
    HEALTHY,
    Case,
    Encoder,
    Residual,
    by_row,
    cnn,
    images,
    labels,
    mlp,
    recurrent,
    squared,
)
from tests.diagnosis._properties import assert_nothing, assert_only

pytestmark = pytest.mark.parametrize("seed", [0, 1, 2])


@pytest.fixture(autouse=True)
def _seeded(seed: int) -> None:
    torch.manual_seed(seed)


def rows() -> Tensor:
    return torch.randn(64, 13)


def weight_of(module: Any, name: str = "weight") -> Tensor:
    weight: Tensor = getattr(module, name).data
    return weight


def test_vanishing_gradients_of_a_sigmoid_network() -> None:
    case = Case(mlp(13, *[64] * 10, 5, activation=nn.Sigmoid), rows(), labels())
    assert_only(case.diagnose(), "vanishing gradients", "0")


def test_vanishing_gradients_of_dead_units() -> None:
    model = mlp(13, 64, 64, 5)
    model[2].bias.data.fill_(-10)
    assert (
        assert_only(Case(model, rows(), labels()).diagnose(), "vanishing gradients", "0").value == 0
    )


def test_exploding_gradients_of_a_deep_batch_norm_network() -> None:
    case = Case(mlp(13, *[32] * 60, 5, norm=nn.BatchNorm1d), rows(), labels())
    finding = assert_only(case.diagnose(), "exploding gradients", "")
    assert finding.where in {f"{i}" for i in range(12)}


def test_exploding_gradients_of_a_chaotic_tanh_network() -> None:
    model = mlp(13, *[64] * 30, 5, activation=nn.Tanh)
    for layer in model[2:-1]:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=3 / 8)
    assert_only(Case(model, rows(), labels()).diagnose(), "exploding gradients", "")


@pytest.mark.parametrize("radius", [4.0, 8.0])
def test_the_spectral_radius_of_an_rnn(radius: float) -> None:
    case = recurrent(nn.RNN)
    weight = weight_of(case.model.recurrent, "weight_hh_l0")
    nn.init.orthogonal_(weight).mul_(radius / 2)
    weight[0] *= 2  # no multiple of an orthogonal matrix: the radius has to be worked out
    expected = float(torch.linalg.eigvals(weight.double()).abs().max())
    nn.init.orthogonal_(weight).mul_(radius)
    finding = assert_only(case.diagnose(), "spectral radius", "recurrent.weight_hh_l0")
    assert finding.value == pytest.approx(radius, rel=1e-5)
    assert expected < radius


def test_a_gradient_that_grows_over_time_at_a_small_radius() -> None:
    case = recurrent(nn.RNN)
    weight_of(case.model.recurrent, "weight_hh_l0").copy_(
        3 * torch.diag(torch.ones(31), 1)  # nilpotent: its radius is 0
    )
    weight_of(case.model.recurrent, "bias_ih_l0").zero_()
    weight_of(case.model.recurrent, "bias_hh_l0").zero_()
    weight_of(case.model.embedding).mul_(1e-6)  # so small that no tanh saturates
    assert_only(case.diagnose(), "exploding through time", "recurrent")


def test_an_lstm_that_forgets() -> None:
    case = recurrent(nn.LSTM)
    weight_of(case.model.recurrent, "bias_ih_l0")[32:64] = -6
    assert_only(case.diagnose(), "vanishing through time", "recurrent")


class Loop(nn.Module):
    """A cell that is called in a loop, as in many tutorials."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        assert state is not None
        scores: Tensor = self.head(state[0] if isinstance(state, tuple) else state)
        return scores


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_a_cell_that_forgets(cell: Any) -> None:
    case = Case(Loop(cell(8, 32)), torch.randn(64, 12, 8), labels())
    assert_nothing(case.diagnose())
    module = case.model.cell
    if cell is nn.RNNCell:
        weight_of(module, "weight_hh").mul_(0.1)
    else:  # keep nothing: the forget gate of an LSTM, the update gate of a GRU
        weight_of(module, "bias_ih")[32:64] = -6
        weight_of(module, "weight_hh").mul_(0.1)
    assert_only(case.diagnose(), "vanishing through time", "cell")


@pytest.mark.parametrize("scale", [255.0, 1e-5])
def test_the_scale_of_images(scale: float) -> None:
    case = Case(cnn(), scale * torch.rand(64, 3, 8, 8), labels())
    assert_only(case.diagnose(), "input scale", "0, feature")


def test_one_feature_out_of_thirteen() -> None:
    case = Case(mlp(13, 64, 5), rows(), labels())
    case.inputs[:, 7] = 40 + 10 * case.inputs[:, 7]
    finding = assert_only(case.diagnose(), "input scale", "0, feature 7")
    assert 40 < finding.value < 80
    assert "1 of 13 features" in finding.evidence


@pytest.mark.parametrize("std", [1.0, 1e-4])
def test_initial_weights(std: float) -> None:
    model = mlp(64, 128, 128, 5)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
    case = Case(model, torch.randn(64, 64), labels())
    assert_only(case.diagnose(), "initial weights", "weight")


def test_initial_weights_of_one_convolution() -> None:
    model = cnn()
    nn.init.normal_(weight_of(model[7]))
    assert_only(Case(model, images(), labels()).diagnose(), "initial weights", "7.weight")


def test_activations_of_residual_branches_without_normalisation() -> None:
    blocks = [Residual(nn.Sequential(nn.Linear(32, 32), nn.ReLU()), gain=8.0) for _ in range(8)]
    model = nn.Sequential(nn.Linear(13, 32), *blocks, nn.LayerNorm(32), nn.Linear(32, 5))
    assert_only(Case(model, rows(), labels()).diagnose(), "unbounded activations", "")


def test_activations_of_a_transformer_whose_branches_are_too_strong() -> None:
    model = Encoder(norm_first=True, n_layers=4)
    model.encoder.norm = nn.LayerNorm(32)
    model.encoder.layers[1].linear2.register_forward_hook(lambda *taken: 1e4 * taken[2])
    diagnosis = Case(model, torch.randint(50, (64, 12)), labels()).diagnose()
    assert_only(diagnosis, "unbounded activations", "encoder.layers.1")


def test_float16_near_overflow() -> None:
    class Wide(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 6e4 * torch.nn.functional.one_hot(torch.arange(64) % 32, 32).half() * (x * 0 + 1)

    model = nn.Sequential(nn.Linear(13, 32), Wide(), nn.LayerNorm(32), nn.Linear(32, 5)).half()
    case = Case(model, rows().half(), labels(), lambda x, y: by_row(x.float(), y))
    assert case.diagnose().findings[0].fault == "unbounded activations"


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("MLP", lambda p: torch.optim.Adam(p, lr=0.3)),
        ("CNN with batch norm", lambda p: torch.optim.SGD(p, lr=30)),
        ("LSTM", lambda p: torch.optim.AdamW(p, lr=0.3)),
        ("transformer", lambda p: torch.optim.Adam(p, lr=0.3)),
        ("MLP", lambda p: torch.optim.LBFGS(p, lr=1e3, max_iter=1)),
    ],
)
def test_the_learning_rate(name: str, optimizer: Any) -> None:
    case = HEALTHY[name]()
    case.optimizer = optimizer(case.model.parameters())
    assert_only(case.diagnose(), "learning rate", "")


def test_the_learning_rate_of_one_layer() -> None:
    case = HEALTHY["MLP"]()
    model: Any = case.model
    case.optimizer = torch.optim.Adam(
        [
            {"params": [*model[0].parameters(), *model[4].parameters()]},
            {"params": model[2].parameters(), "lr": 1.0},
        ],
        lr=1e-3,
    )
    assert_only(case.diagnose(), "learning rate", "2.weight")


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_momentum_after_a_spike(kind: str) -> None:
    case = HEALTHY["transformer"]()
    parameters = list(case.model.parameters())
    case.optimizer = (
        torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
        if kind == "SGD"
        else torch.optim.Adam(parameters, lr=1e-2)
    )
    old = [p.detach().clone() for p in parameters]
    (1e5 * case.loss_fn(case.model(case.inputs), case.targets).mean()).backward()
    case.optimizer.step()
    with torch.no_grad():  # back to the healthy weights: only the memory stays
        for p, value in zip(parameters, old, strict=True):
            p.copy_(value)
    finding = assert_only(case.diagnose(), "large update", "optimizer")
    assert finding.value > 1e3


def test_rows_with_wrong_targets() -> None:
    case = HEALTHY["tanh regression"]()
    case.targets[[17, 40]] = torch.tensor([[3e3], [-1e3]])
    finding = assert_only(case.diagnose(), "outlier rows", "row 17, row 40")
    assert finding.value > 500


def test_a_row_with_wrong_inputs() -> None:
    case = HEALTHY["MLP"]()
    case.inputs[5] *= 1e4
    case.targets[5] = case.model(case.inputs)[5].argmin()
    assert_only(case.diagnose(), "outlier rows", "row 5")


def test_a_scalar_loss_says_that_rows_cannot_be_told() -> None:
    case = HEALTHY["MLP"]()
    case.inputs[5] *= 1e4
    case.loss_fn = cross_entropy
    diagnosis = case.diagnose()
    assert "outlier rows" not in {finding.fault for finding in diagnosis.findings}
    frame = diagnosis.to_frame()
    (note,) = frame.loc[frame["quantity"] == "row gradient norm", "note"]
    assert "cannot be told" in note
    assert f"Not measured:\n   row gradient norm (batch): {note}" in str(diagnosis)


class Apply(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(x)
        return result


def test_non_finite_parameters() -> None:
    case = recurrent(nn.LSTM)
    weight_of(case.model.recurrent, "weight_hh_l0")[3, 4] = math.nan
    assert_only(case.diagnose(), "non-finite values", "parameter recurrent.weight_hh_l0")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_inputs(value: float) -> None:
    case = HEALTHY["CNN with batch norm"]()
    case.inputs[3, 0, 1, 1] = value
    assert_only(case.diagnose(), "non-finite values", "input 0")


def test_non_finite_activations() -> None:
    model = nn.Sequential(nn.Linear(13, 32), Apply(lambda x: x.relu().log()), nn.Linear(32, 5))
    assert_only(Case(model, rows(), labels()).diagnose(), "non-finite values", "output of 1")


def test_a_non_finite_loss() -> None:
    case = Case(mlp(13, 64, 1), rows(), torch.full((64, 1), math.nan), squared)
    assert_only(case.diagnose(), "non-finite values", "loss")


def test_non_finite_gradients() -> None:
    root = Apply(lambda x: (x.relu() * 0).sqrt())
    model = nn.Sequential(nn.Linear(13, 32), root, nn.Linear(32, 5))
    assert_only(Case(model, rows(), labels()).diagnose(), "non-finite values", "gradient of 0")


def test_an_infinite_mask_is_no_fault() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask = Apply(lambda x: torch.full((x.shape[1],) * 2, -math.inf).triu(1))
            self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.head = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(self.encoder(x, src_mask=self.mask(x)).mean(1))
            return scores

    assert_nothing(Case(Masked(), torch.randn(64, 6, 16), labels()).diagnose())
