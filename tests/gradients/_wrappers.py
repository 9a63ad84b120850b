"""Ways to hold and use parameters beside the plain layer. Shapes: B rows, T tokens, W features."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.gradients._inputs import N_CLASSES, N_TOKENS, Batch, T, W


@dataclass(frozen=True)
class Case:
    """How to build a model, and its losses (B,)."""

    name: str
    build: Callable[[], nn.Module]
    losses: Callable[[nn.Module, Batch], Tensor]
    warns: str = ""


def of_means(model: nn.Module, batch: Batch) -> Tensor:
    return batch.loss(model(batch.vectors.mean(1)))


def of_vectors(model: nn.Module, batch: Batch) -> Tensor:
    return batch.loss(model(batch.vectors))


def of_ids(model: nn.Module, batch: Batch) -> Tensor:
    return batch.loss(model(batch.ids))


def mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(W, 6), nn.Tanh(), *between, nn.Linear(6, N_CLASSES))


# ------------------------------------------------------------------ own and tied parameters


class ClassToken(nn.Module):
    """A vision transformer's head and tail: parameters of its own beside its children."""

    def __init__(self, *, dropout: float, batch_first: bool) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, W))
        self.positions = nn.Parameter(torch.randn(1, T + 1, W))
        self.encoder = nn.TransformerEncoderLayer(W, 2, 8, dropout, batch_first=batch_first)
        self.head = nn.Linear(W, N_CLASSES)
        self.batch_first = batch_first

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.cat([self.token.expand(len(inputs), -1, -1), inputs], 1) + self.positions
        if self.batch_first:
            logits: Tensor = self.head(self.encoder(hidden)[:, 0])
        else:
            logits = self.head(self.encoder(hidden.transpose(0, 1))[0])
        return logits


class TiedModules(nn.Module):
    """One matrix looks tokens up and scores them, each by a module."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(N_TOKENS, W)
        self.hidden = nn.Linear(W, W)
        self.head = nn.Linear(W, N_TOKENS)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.hidden(self.table(ids)))).mean(1)
        return logits


class SharedWeight(nn.Module):
    """Two Linears with one weight, which is also used by a function."""

    def __init__(self, *, by_function: bool) -> None:
        super().__init__()
        self.first = nn.Linear(W, W)
        self.second = nn.Linear(W, W)
        self.second.weight = self.first.weight
        self.head = nn.Linear(W, N_CLASSES)
        self.by_function = by_function

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.second(torch.tanh(self.first(inputs))))
        if self.by_function:
            hidden = hidden + functional.linear(inputs, self.second.weight, self.second.bias)
        logits: Tensor = self.head(hidden)
        return logits


class LinearAndFunction(nn.Module):
    """A weight that a Linear and a function share."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layer = nn.Linear(W, W)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(W, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        back = functional.linear(torch.tanh(self.layer(inputs)), self.layer.weight.T)
        logits: Tensor = self.head(self.drop(back))
        return logits


class Borrowed(nn.Module):
    """The same layer under two names, and its weight in another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(W, W)
        self.again = self.first
        self.other = nn.Linear(W, W)
        self.other.weight = self.first.weight
        self.head = nn.Linear(W, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.other(torch.tanh(self.again(torch.tanh(self.first(inputs)))))
        logits: Tensor = self.head(hidden)
        return logits


def _frozen_in_part() -> nn.Module:
    model = mlp()
    model.get_parameter("0.weight").requires_grad_(False)
    model.get_parameter("2.bias").requires_grad_(False)
    return model


def _unused_inside_of_a_leaf() -> nn.Module:
    model = mlp()
    model[1].register_module("unused", nn.Linear(3, 3))
    return model


class Positions(nn.Module):
    """Token and position tables; positions are looked up once for all rows, with ids (1, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(N_TOKENS, W, padding_idx=0)
        self.position = nn.Embedding(T, W)
        self.norm = nn.LayerNorm(W)
        self.head = nn.Linear(W, N_CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])[None]
        hidden = self.norm(self.token(ids) + self.position(places))
        logits: Tensor = self.head(torch.tanh(hidden)).mean(1)
        return logits


class SideBySide(nn.Module):
    """A layer that is called twice, by keyword, over tokens side by side; and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(W, W)
        self.frozen = nn.Linear(W, W).requires_grad_(False)
        self.head = nn.Linear(W, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        flat = self.layer(inputs.flatten(0, 1))
        flat = self.layer(input=torch.relu(self.frozen(flat)))
        turned = flat.unflatten(0, inputs.shape[:2]).transpose(0, 1).flatten(0, 1)
        logits: Tensor = self.head(turned).unflatten(0, (T, -1)).mean(0)
        return logits


class Noisy(nn.Module):
    """A parameter of a module that draws random numbers, so that rows cannot be run alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(W) + 0.5)
        self.rate = 0.5
        self.head = nn.Linear(W, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.dropout(inputs * self.scale, self.rate, self.training)
        logits: Tensor = self.head(hidden)
        return logits


class ManyCalls(nn.Module):
    """The same layers on inputs of several shapes in one forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(W, W)
        self.norm = nn.LayerNorm(W)
        self.head = nn.Linear(W, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.norm(self.layer(inputs))
        doubled = self.layer(torch.tanh(inputs.repeat(1, 2, 1))).mean(1)
        flat = self.layer(inputs.flatten(0, 1)).unflatten(0, (-1, T))[:, 1]
        rows = self.norm(self.layer(tokens.mean(1))) + self.layer(inputs[:, 0])
        logits: Tensor = self.head(torch.tanh(rows + doubled + flat))
        return logits


class Pyramid(nn.Module):
    """A convolution at two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(W, N_CLASSES, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        images = inputs.transpose(1, 2)
        small = functional.avg_pool1d(images, 2)
        logits: Tensor = torch.tanh(self.conv(images)).mean(2) + self.conv(small).mean(2)
        return logits


class Siamese(nn.Module):
    """One encoder for two inputs, given by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(W, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))

    def forward(self, *, left: Tensor, right: Tensor) -> Tensor:
        logits: Tensor = self.encoder(left) - self.encoder(input=right)
        return logits


def _siamese(model: nn.Module, batch: Batch) -> Tensor:
    return batch.loss(model(left=batch.vectors[:, 0], right=batch.vectors[:, 1]))


class Containers(nn.Module):
    """ModuleDict, ModuleList, ParameterList and ParameterDict, with a nested dict as input."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name = nn.ModuleDict({"left": nn.Linear(W, 5), "right": nn.Linear(W, 5)})
        self.layers = nn.ModuleList([nn.Linear(5, 5) for _ in range(3)])
        self.scales = nn.ParameterList([torch.rand(5) + 0.5 for _ in range(3)])
        self.shifts = nn.ParameterDict({"first": torch.randn(5)})
        self.head = nn.Linear(5, N_CLASSES)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        hidden = self.shifts["first"].expand(len(batch["sides"]["left"]), -1)
        for name, side in batch["sides"].items():
            hidden = hidden + self.by_name[name](side)
        for layer, scale in zip(self.layers, self.scales, strict=True):
            hidden = torch.relu_(layer(hidden)) * scale
        logits: Tensor = self.head(hidden)
        return logits


def _containers(model: nn.Module, batch: Batch) -> Tensor:
    sides = {"left": batch.vectors[:, 0], "right": batch.vectors[:, 1]}
    return batch.loss(model({"sides": sides, "about": ["a name", None, 3]}))


class Dropouts(nn.Module):
    """Everything that draws or works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(W, 6)
        self.in_place = nn.Dropout(0.4, inplace=True)
        self.second = nn.Linear(6, 6)
        self.alpha = nn.AlphaDropout(0.3)
        self.head = nn.Linear(6, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = functional.relu(self.second(self.in_place(self.first(inputs))), inplace=True)
        logits: Tensor = self.head(functional.dropout(self.alpha(hidden), 0.2, self.training))
        return logits


# ------------------------------------------------------------------ adapters


class LoRA(nn.Module):
    """A frozen Linear and two small ones, held by name as peft does."""

    def __init__(self, base: nn.Linear, dropout: float) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(dropout)})

    def forward(self, inputs: Tensor) -> Tensor:
        small = self.lora_A["default"](self.lora_dropout["default"](inputs))
        outputs: Tensor = self.base_layer(inputs) + 2.0 * self.lora_B["default"](small)
        return outputs


class MatrixLoRA(nn.Module):
    """The two small matrices are parameters of the wrapper."""

    def __init__(self, base: nn.Linear, *, merged: bool) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, base.in_features))
        self.up = nn.Parameter(torch.randn(base.out_features, 2))
        self.merged = merged

    def forward(self, inputs: Tensor) -> Tensor:
        if self.merged:
            weight = self.base.weight + self.up @ self.down
            return functional.linear(inputs, weight, self.base.bias)
        outputs: Tensor = self.base(inputs) + inputs @ self.down.T @ self.up.T
        return outputs


def _adapted(wrap: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    return nn.Sequential(wrap(nn.Linear(W, 6)), nn.Tanh(), wrap(nn.Linear(6, N_CLASSES)))


# ------------------------------------------------------------------ parametrizations


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


def _shared_parametrization() -> nn.Module:
    model = nn.Sequential(nn.Linear(W, W), nn.Tanh(), nn.Linear(W, W), nn.Linear(W, N_CLASSES))
    for layer in (model[0], model[2]):
        parametrize.register_parametrization(layer, "weight", Symmetric())
    originals = [model.get_submodule(f"{i}.parametrizations.weight") for i in (0, 2)]
    originals[1].register_parameter("original", originals[0].get_parameter("original"))
    return model


def _cached(model: nn.Module, batch: Batch) -> Tensor:
    with parametrize.cached():
        return of_means(model, batch)


def _with_linears(change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = mlp().double()
        with warnings.catch_warnings():  # half of them are deprecated
            warnings.simplefilter("ignore", FutureWarning)
            change(model[0])
            change(model[2])
        return model

    return build


def _with_conv(change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        conv = nn.Conv1d(T, 4, 2).double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            change(conv)
        return nn.Sequential(conv, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, N_CLASSES))

    return build


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight_norm_hook": nn.utils.weight_norm,
    "spectral_norm_hook": nn.utils.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),  # by a hook
}


# ------------------------------------------------------------------ activation checkpointing


class Checkpointed(nn.Module):
    """A block that is run again in the backward pass."""

    def __init__(self, how: str, dropout: float = 0.0, *, reentrant: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(W, 6)
        self.scale = nn.Parameter(torch.rand(6) + 0.5)
        self.block = nn.Sequential(
            nn.Linear(6, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 6), nn.Sigmoid()
        )
        self.head = nn.Linear(6, N_CLASSES)
        self.how = how
        self.reentrant = reentrant

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        match self.how:
            case "block":
                hidden = self._again(self.block, hidden)
            case "segments":
                hidden = checkpoint_sequential(self.block, 2, hidden, use_reentrant=self.reentrant)
            case "each":
                for layer in self.block:
                    hidden = self._again(layer, hidden)
            case "function":
                hidden = self._again(lambda x: self.block(x) * self.scale, hidden)
            case "nested":
                hidden = self._again(lambda x: self._again(self.block, x * self.scale), hidden)
        logits: Tensor = self.head(hidden)
        return logits

    def _again(self, function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        outputs: Tensor = checkpoint(function, inputs, use_reentrant=self.reentrant)
        return outputs


CHECKPOINTS = ("block", "segments", "each", "function", "nested")


def _whole(model: nn.Module, batch: Batch) -> Tensor:
    return batch.loss(checkpoint(model, batch.vectors.mean(1), use_reentrant=False))


USED_OUTSIDE = "used outside of the forward pass"

CASES = (
    *[
        Case(
            f"class_token-{dropout}-{batch_first}",
            partial(ClassToken, dropout=dropout, batch_first=batch_first),
            of_vectors,
        )
        for dropout, batch_first in ((0.2, True), (0.0, False))
    ],
    Case("tied_modules", TiedModules, of_ids),
    Case("shared_weight", lambda: SharedWeight(by_function=False), of_means),
    Case("shared_three_ways", lambda: SharedWeight(by_function=True), of_means, USED_OUTSIDE),
    *[
        Case(f"linear_and_function-{p}", partial(LinearAndFunction, p), of_means, USED_OUTSIDE)
        for p in (0.0, 0.3)
    ],
    Case("borrowed", Borrowed, of_means),
    Case("frozen_in_part", _frozen_in_part, of_means),
    Case("unused_inside_of_a_leaf", _unused_inside_of_a_leaf, of_means),
    Case("positions", Positions, of_ids),
    Case("side_by_side", SideBySide, of_vectors),
    Case("noisy", Noisy, of_means),
    Case("many_calls", ManyCalls, of_vectors),
    Case("pyramid", Pyramid, of_vectors),
    Case("siamese", Siamese, _siamese),
    Case("containers", Containers, _containers),
    Case("dropouts", Dropouts, of_means),
    Case("lora", lambda: _adapted(lambda base: LoRA(base, 0.0)), of_means),
    Case("lora_dropout", lambda: _adapted(lambda base: LoRA(base, 0.3)), of_means),
    Case("lora_matrices", lambda: _adapted(lambda b: MatrixLoRA(b, merged=False)), of_means),
    Case("lora_merged", lambda: _adapted(lambda b: MatrixLoRA(b, merged=True)), of_means),
    *[Case(name, _with_linears(change), of_means) for name, change in CHANGES.items()],
    *[Case(f"{name}_conv", _with_conv(change), of_vectors) for name, change in CHANGES.items()],
    Case("shared_parametrization", _shared_parametrization, of_means),
    Case("cached_parametrization", _shared_parametrization, _cached),
    *[
        Case(f"checkpoint_{how}-{dropout}", partial(Checkpointed, how, dropout), of_means)
        for how in CHECKPOINTS
        for dropout in (0.0, 0.3)
    ],
    Case("checkpoint_whole", lambda: mlp(nn.Dropout(0.3)), _whole),
)
