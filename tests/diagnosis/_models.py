"""Small models of the usual kinds, freshly initialised, each with a batch that suits it."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from fairclip.diagnosis import Diagnosis, diagnose

LossFunction = Callable[[Any, Any], Tensor]


def by_row(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets, reduction="none")


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return mse_loss(outputs, targets, reduction="none")


@dataclass
class Case:
    model: Any  # so that tests reach its layers by name
    inputs: Any
    targets: Tensor
    loss_fn: LossFunction = by_row
    optimizer: torch.optim.Optimizer | None = None

    def diagnose(self) -> Diagnosis:
        return diagnose(self.model, (self.inputs, self.targets), self.loss_fn, self.optimizer)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module, gain: float = 1.0) -> None:
        super().__init__()
        self.inner, self.gain = inner, gain

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.inner(x)
        return x + self.gain * branch


class Last(nn.Module):
    """Read the last step of a recurrent layer."""

    def __init__(self, recurrent: nn.Module, n_outputs: int, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding, self.recurrent = embedding, recurrent
        self.head = nn.LazyLinear(n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.recurrent(self.embedding(x))[0][:, -1]
        scores: Tensor = self.head(out)
        return scores


class Encoder(nn.Module):
    def __init__(self, norm_first: bool = False, n_layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.position = nn.Parameter(0.02 * torch.randn(1, 12, 32))
        layer = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.1, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.encoder(self.embedding(x) + self.position).mean(1))
        return scores


def labels(n: int = 64, n_classes: int = 5) -> Tensor:
    return torch.randint(n_classes, (n,))


def mlp(
    *widths: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
) -> Any:
    layers: list[nn.Module] = []
    for i, o in pairwise(widths[:-1]):
        layers += [nn.Linear(i, o), *([norm(o)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def cnn(*, norm: bool = True) -> Any:
    def block(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, padding=1), *([nn.BatchNorm2d(o)] if norm else []), nn.ReLU()]

    return nn.Sequential(
        *block(3, 16), *block(16, 16), nn.MaxPool2d(2), *block(16, 32), *block(32, 32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


def resnet(n_blocks: int = 6) -> nn.Sequential:
    def block() -> nn.Module:
        inner = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16),
        )  # fmt: skip
        return nn.Sequential(Residual(inner), nn.ReLU())

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), *(block() for _ in range(n_blocks)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def recurrent(kind: Any, *, n_steps: int = 20, **options: Any) -> Case:
    layer = kind(16, 32, batch_first=True, **options)
    model = Last(layer, 5, nn.Embedding(50, 16))
    tokens = torch.randint(50, (64, n_steps))
    model(tokens)
    return Case(model, tokens, labels())


def images(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(64, 3, 8, 8)


HEALTHY: dict[str, Callable[[], Case]] = {
    "MLP": lambda: Case(mlp(13, 64, 64, 5), torch.randn(64, 13), labels()),
    "wide MLP": lambda: Case(mlp(100, 512, 1024, 5), torch.randn(64, 100), labels()),
    "six-layer MLP": lambda: Case(mlp(13, *[64] * 5, 5), torch.randn(64, 13), labels()),
    "tanh regression": lambda: Case(
        mlp(13, 64, 64, 1, activation=nn.Tanh), torch.randn(64, 13), torch.randn(64, 1), squared
    ),
    "one-hot columns": lambda: Case(mlp(40, 64, 5), (torch.rand(64, 40) < 0.1).float(), labels()),
    "logistic regression": lambda: Case(nn.Linear(13, 5), torch.randn(64, 13), labels()),
    "MLP with batch norm": lambda: Case(
        mlp(13, 64, 64, 64, 5, norm=nn.BatchNorm1d), torch.randn(64, 13), labels()
    ),
    "CNN with batch norm": lambda: Case(cnn(), images(), labels()),
    "CNN without": lambda: Case(cnn(norm=False), torch.rand(64, 3, 8, 8), labels()),
    "residual CNN": lambda: Case(resnet(), images(), labels()),
    "RNN": lambda: recurrent(nn.RNN),
    "LSTM": lambda: recurrent(nn.LSTM),
    "long LSTM": lambda: recurrent(nn.LSTM, n_steps=100, num_layers=2),
    "GRU": lambda: recurrent(nn.GRU, bidirectional=True),
    "transformer": lambda: Case(Encoder(), torch.randint(50, (64, 12)), labels()),
    "pre-norm transformer": lambda: Case(
        Encoder(norm_first=True, n_layers=6), torch.randint(50, (64, 12)), labels()
    ),
}

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
}
