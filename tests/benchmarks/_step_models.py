"""The models and batches that the steps are measured on: random weights, random rows.

B rows, K groups, T tokens. The learning rate is 0 everywhere: Adam does all of its arithmetic, and
every step of every arm meets the same gradients for as long as the benchmark runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it


@dataclass(frozen=True)
class Workload:
    """A model and the batch that it is given.

    ``n_tokens`` is the vocabulary of integer inputs, None for real ones. ``on_cuda`` marks what is
    too large for a CPU; it is measured in bfloat16.
    """

    build: Callable[[], nn.Module]
    batch_size: int
    input_shape: tuple[int, ...]
    n_classes: int
    n_tokens: int | None = None
    on_cuda: bool = False


@dataclass(frozen=True)
class Batch:
    """Rows, what they are to be classified as, and whose they are (codes on the CPU)."""

    inputs: Tensor
    targets: Tensor
    groups: Tensor
    n_groups: int

    def losses(self, model: nn.Module) -> Tensor:
        """Return the loss of each row, (B,)."""
        return F.cross_entropy(model(self.inputs), self.targets, reduction="none")

    def rows(self, group: int) -> Tensor:
        """Return the numbers of a group's rows, on the device."""
        return (self.groups == group).nonzero().flatten().to(self.inputs.device)


def make_batch(workload: Workload, n_groups: int, minority: str, device: torch.device) -> Batch:
    """Draw a batch in which group 0 is the largest.

    The other groups share ``minority`` percent of the rows evenly; "balanced" means all groups do.
    """
    torch.manual_seed(0)
    shape = (workload.batch_size, *workload.input_shape)
    if workload.n_tokens is None:
        dtype = torch.bfloat16 if workload.on_cuda else torch.float32
        inputs = torch.randn(shape, dtype=dtype)
    else:
        inputs = torch.randint(workload.n_tokens, shape)
    targets = torch.randint(workload.n_classes, (workload.batch_size,))
    groups = torch.arange(workload.batch_size) % n_groups
    if minority != "balanced":
        n_minority = round(workload.batch_size * int(minority) / 100)
        groups[:n_minority] = 1 + torch.arange(n_minority) % (n_groups - 1)
        groups[n_minority:] = 0
    groups = groups[torch.randperm(workload.batch_size)]
    return Batch(inputs.to(device), targets.to(device), groups, n_groups)


def make_model(workload: Workload, device: torch.device) -> nn.Module:
    """Build the model in training mode, with the same weights at each call."""
    torch.manual_seed(1)
    model = workload.build().to(device)
    return model.to(torch.bfloat16) if workload.on_cuda else model


def mlp(*sizes: int) -> nn.Module:
    """Build an MLP with ReLU between its layers."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn() -> nn.Module:
    """Build four convolutions with GroupNorm and a linear layer, for 32 x 32 images."""
    layers: list[nn.Module] = []
    for n_in, n_out, stride in ((3, 32, 1), (32, 64, 2), (64, 128, 2), (128, 128, 2)):
        layers += [
            nn.Conv2d(n_in, n_out, 3, stride, padding=1),
            nn.GroupNorm(8, n_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


class Block(nn.Module):
    """A residual block: two 3 x 3 convolutions, or 1 x 1, 3 x 3 and 1 x 1 as a bottleneck."""

    def __init__(self, n_in: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        n_out = width * expansion
        if expansion == 1:
            sizes = [(n_in, width, 3, stride), (width, n_out, 3, 1)]
        else:
            sizes = [(n_in, width, 1, 1), (width, width, 3, stride), (width, n_out, 1, 1)]
        layers: list[nn.Module] = []
        for a, b, kernel, step in sizes:
            layers += [convolution(a, b, kernel, step), nn.GroupNorm(32, b), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                convolution(n_in, n_out, 1, stride), nn.GroupNorm(32, n_out)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Add the body to the shortcut."""
        return F.relu(self.body(inputs) + self.shortcut(inputs))


def convolution(n_in: int, n_out: int, kernel: int, stride: int) -> nn.Conv2d:
    """Build a convolution that keeps the image's size but for the stride, without a bias."""
    return nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=False)


def resnet(depths: tuple[int, ...], expansion: int, n_classes: int) -> nn.Module:
    """Build a ResNet with GroupNorm: rows do not mix, so that each group has its own gradient."""
    layers = [convolution(3, 64, 7, 2), nn.GroupNorm(32, 64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    n_in = 64
    for stage, depth in enumerate(depths):
        for block in range(depth):
            width, stride = 64 * 2**stage, 2 if stage and not block else 1
            layers.append(Block(n_in, width, stride, expansion))
            n_in = width * expansion
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, n_classes))


class Transformer(nn.Module):
    """Classify token sequences: embeddings, encoder layers, the mean over T, a linear layer."""

    def __init__(
        self, n_tokens: int, length: int, width: int, n_heads: int, n_layers: int, n_classes: int
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, width)
        self.positions = nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(
            width, n_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, n_classes)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (B, n_classes) of ids (B, T)."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        hidden = self.encoder(self.tokens(ids) + self.positions(positions))
        logits: Tensor = self.head(hidden.mean(1))
        return logits


WORKLOADS = {
    "MLP 100-64-64-2": Workload(lambda: mlp(100, 64, 64, 2), 256, (100,), 2),
    "MLP 512-1024-1024-10": Workload(lambda: mlp(512, 1024, 1024, 10), 512, (512,), 10),
    "CNN": Workload(cnn, 64, (3, 32, 32), 10),
    "ResNet-18": Workload(lambda: resnet((2, 2, 2, 2), 1, 10), 32, (3, 32, 32), 10),
    "Transformer": Workload(
        lambda: Transformer(1000, 32, 128, 4, 2, 10), 64, (32,), 10, n_tokens=1000
    ),
    "ResNet-50": Workload(
        lambda: resnet((3, 4, 6, 3), 4, 1000), 64, (3, 224, 224), 1000, on_cuda=True
    ),
    "BERT-base": Workload(
        lambda: Transformer(30522, 128, 768, 12, 12, 2), 64, (128,), 2, n_tokens=30522, on_cuda=True
    ),
}
