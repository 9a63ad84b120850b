"""Models as libraries build them, small. Shapes: B rows, T tokens."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.bert import BertConfig, BertForSequenceClassification
from transformers.models.gpt2 import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
from transformers.models.t5 import T5Config, T5ForConditionalGeneration

from tests.gradients._inputs import N_CLASSES, N_TOKENS

Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, with operations in place as in torchvision's."""

    def __init__(self, n_in: int, n_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm1 = norm(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = norm(n_out)
        self.shortcut: nn.Module | None = None
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), norm(n_out)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        kept = inputs if self.shortcut is None else self.shortcut(inputs)
        hidden: Tensor = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(inputs)))))
        hidden += kept
        outputs: Tensor = self.relu(hidden)
        return outputs


class ResNet18(nn.Module):
    """He et al. 2015, with fewer channels."""

    def __init__(self, norm: Norm, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks: list[nn.Module] = []
        n_in = width
        for stage in range(4):
            n_out = width * 2**stage
            stride = 1 if stage == 0 else 2
            blocks += [BasicBlock(n_in, n_out, stride, norm), BasicBlock(n_out, n_out, 1, norm)]
            n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(n_in, N_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.flatten(self.pool(self.blocks(self.stem(images))), 1))
        return logits


def group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(2, width)


def bert(attention: str = "sdpa", dropout: float = 0.0, width: int = 8) -> nn.Module:
    """A classifier, with random weights."""
    model: nn.Module = BertForSequenceClassification(
        BertConfig(
            vocab_size=N_TOKENS,
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=2 * width,
            max_position_embeddings=16,
            num_labels=N_CLASSES,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            attn_implementation=attention,
        )
    )
    return model


def gpt2(
    attention: str = "sdpa",
    dropout: float = 0.0,
    width: int = 8,
    kind: type[nn.Module] = GPT2LMHeadModel,
) -> nn.Module:
    """A language model or a classifier, with random weights; input and output table are tied."""
    config = GPT2Config(
        vocab_size=N_TOKENS,
        n_positions=16,
        n_embd=width,
        n_layer=2,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        num_labels=N_CLASSES,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        attn_implementation=attention,
    )
    model: nn.Module = kind(config)
    return model


def gpt2_classifier(attention: str = "sdpa", dropout: float = 0.0) -> nn.Module:
    """It reads its logits where the padding begins."""
    return gpt2(attention, dropout, kind=GPT2ForSequenceClassification)


class Digits(LightningModule):  # type: ignore[misc]
    """A Lightning module, its forward pass called as a whole or part by part."""

    def __init__(self, *, by_parts: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True))
        self.head = nn.Linear(6, N_CLASSES)
        self.by_parts = by_parts

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(inputs))
        return logits

    def training_step(self, batch: Any, _: int) -> Tensor:
        inputs, targets = batch
        logits = self.head(self.encoder(inputs)) if self.by_parts else self(inputs)
        return functional.cross_entropy(logits, targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def t5(*, use_cache: bool) -> nn.Module:
    """A translator, with random weights."""
    config = T5Config(
        vocab_size=N_TOKENS,
        d_model=8,
        d_kv=4,
        d_ff=8,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        dropout_rate=0.0,
        use_cache=use_cache,
    )
    model: nn.Module = T5ForConditionalGeneration(config)
    return model
