"""Models that use their parameters in every way the engine must know. Shapes: B rows, T tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

N_TOKENS = 11


class Sequence(nn.Module):
    """Token and position tables; positions are looked up once for all rows, with ids (1, T)."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(N_TOKENS, width, padding_idx=0)
        self.position = nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])[None]
        hidden = self.norm(self.token(ids) + self.position(places))
        logits: Tensor = self.head(torch.tanh(hidden)).mean(1)
        return logits


class Attention(nn.Module):
    """A class token of the module's own, and an attention whose projection is no module call."""

    def __init__(self, width: int, *, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.start = nn.Parameter(torch.randn(1, 1, width))
        self.attention = nn.MultiheadAttention(width, 2, batch_first=batch_first)
        self.head = nn.Linear(width, 3)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        if not self.batch_first:
            inputs = inputs.transpose(0, 1)
        rows, tokens = (0, 1) if self.batch_first else (1, 0)
        shape = [1, 1, inputs.shape[2]]
        shape[rows] = inputs.shape[rows]
        hidden = torch.cat([self.start.expand(shape), inputs], tokens)
        mixed, _ = self.attention(hidden, hidden, hidden)
        return {"logits": self.head(mixed.select(tokens, 0))}


class Tied(nn.Module):
    """One table for input and output: a module call and a product."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(N_TOKENS, width)
        self.hidden = nn.Linear(width, width)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.hidden(self.table(ids)).tanh().mean(1) @ self.table.weight.T
        return logits


class Recurrent(nn.Module):
    """A leaf without a rule, with one output that has its rows second."""

    def __init__(self, width: int, *, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.rnn = nn.GRU(width, 4, batch_first=batch_first)
        self.slope = nn.PReLU(4)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        _, last = self.rnn(inputs if self.batch_first else inputs.transpose(0, 1))
        logits: Tensor = self.head(self.slope(last[0]))
        return logits


class Twice(nn.Module):
    """A layer that is called twice, by keyword, over tokens side by side; and a frozen one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.head = nn.Linear(width, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        n_rows, n_tokens, width = inputs.shape
        flat = inputs.reshape(n_rows * n_tokens, width)
        flat = self.layer(input=torch.relu(self.frozen(self.layer(flat))))
        turned = flat.reshape(n_rows, n_tokens, width).transpose(0, 1).reshape(-1, width)
        logits: Tensor = self.head(turned).reshape(n_tokens, n_rows, 3).mean(0)
        return logits


class Noisy(nn.Module):
    """A parameter of a module that draws random numbers, so that rows cannot be run alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(width) + 0.5)
        self.head = nn.Linear(width, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(
            functional.dropout(inputs.mean(1) * self.scale, 0.5, self.training)
        )
        return logits


def _conv(kind: type[nn.Module], norm: nn.Module, **options: Any) -> nn.Module:
    return nn.Sequential(
        kind(4, 6, 2, **options), norm, nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(3)
    )


@dataclass(frozen=True)
class Case:
    """How to build a model, and its inputs."""

    name: str
    build: Callable[[int, int], nn.Module]  # length T, width
    inputs: Callable[[int, int, int], Tensor]  # B, T, width


def _ids(n_rows: int, length: int, _width: int) -> Tensor:
    return torch.randint(N_TOKENS, (n_rows, length))


def _vectors(n_rows: int, length: int, width: int) -> Tensor:
    return torch.randn(n_rows, length, width)


def _image(n_dims: int) -> Callable[[int, int, int], Tensor]:
    return lambda n_rows, length, _: torch.randn(n_rows, 4, *[length + 2] * n_dims)


def _mlp(_length: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.LazyLinear(width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 3)
    )


CASES = (
    Case("mlp", _mlp, _vectors),
    Case(
        "conv1d",
        lambda *_: _conv(nn.Conv1d, nn.GroupNorm(2, 6), dilation=2, bias=False),
        _image(1),
    ),
    Case("conv2d", lambda *_: _conv(nn.Conv2d, nn.GroupNorm(3, 6), stride=2, groups=2), _image(2)),
    Case("conv3d", lambda *_: _conv(nn.Conv3d, nn.BatchNorm3d(6).eval(), padding=1), _image(3)),
    Case(
        "conv_circular",
        lambda *_: _conv(nn.Conv2d, nn.Identity(), padding=1, padding_mode="circular"),
        _image(2),
    ),
    Case("sequence", Sequence, _ids),
    Case("attention", lambda _, width: Attention(width, batch_first=True), _vectors),
    Case("attention_second", lambda _, width: Attention(width, batch_first=False), _vectors),
    Case("tied", lambda _, width: Tied(width), _ids),
    Case("recurrent", lambda _, width: Recurrent(width, batch_first=True), _vectors),
    Case("recurrent_second", lambda _, width: Recurrent(width, batch_first=False), _vectors),
    Case("twice", lambda _, width: Twice(width), _vectors),
    Case("noisy", lambda _, width: Noisy(width), _vectors),
)
