"""Models of libraries that people use, built without a download, against the oracle."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairclip import FairClipper, NormCap
from fairclip.exceptions import FairclipWarning
from fairclip.gradients import GradientEngine
from tests.gradients._exactness import K, assert_exact, assert_step, seeded
from tests.gradients._inputs import (
    CODES,
    IDS,
    IMAGES,
    TARGETS,
    VECTORS,
    B,
    T,
    classify_means,
    cross_entropy,
)
from tests.gradients._oracle import assert_adds_up, combined, group_gradients, norm
from tests.gradients._real_models import (
    Digits,
    ResNet18,
    bert,
    gpt2,
    gpt2_classifier,
    group_norm,
    t5,
)

MASK = torch.ones(B, T, dtype=torch.int64)
MASK[1, 3:] = 0
MASK[4, 2:] = 0


# ------------------------------------------------------------------ ResNet-18


def of_images(model: nn.Module, step: int) -> Tensor:
    return cross_entropy(model(IMAGES[step]))


@pytest.mark.parametrize("norm", ["group", "batch in evaluation"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_resnet(norm: str, channels_last: bool) -> None:
    model = seeded(lambda: ResNet18(group_norm if norm == "group" else nn.BatchNorm2d))
    if norm != "group":
        of_images(model, 0)  # so that the running averages are not those of a new layer
        model.eval()
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert not assert_exact(model, of_images, CODES)


def test_resnet_with_batch_statistics_adds_up_and_says_what_it_is_not() -> None:
    model = seeded(lambda: ResNet18(nn.BatchNorm2d))
    with pytest.warns(FairclipWarning, match="batch statistics"):
        assert_adds_up(model, lambda: of_images(model, 0), CODES[0], 1e-9)


# ------------------------------------------------------------------ BERT and GPT-2


def of_masked(model: nn.Module, step: int) -> Tensor:
    logits: Tensor = model(input_ids=IDS[step], attention_mask=MASK).logits
    return cross_entropy(logits)


def of_pairs(model: nn.Module, step: int) -> Tensor:
    kinds = (IDS[step] > 5).long()
    logits: Tensor = model(IDS[step], token_type_ids=kinds, attention_mask=MASK).logits
    return cross_entropy(logits)


def of_next_tokens(model: nn.Module, step: int) -> Tensor:
    logits = model(input_ids=IDS[step], attention_mask=MASK).logits[:, :-1]
    losses = functional.cross_entropy(logits.transpose(1, 2), IDS[step][:, 1:], reduction="none")
    return (losses * MASK[:, 1:]).sum(1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
class TestTransformers:
    def test_bert(self, attention: str, dropout: float) -> None:
        assert not assert_exact(seeded(lambda: bert(attention, dropout)), of_masked, CODES)

    def test_bert_of_sentence_pairs(self, attention: str, dropout: float) -> None:
        assert not assert_exact(seeded(lambda: bert(attention, dropout)), of_pairs, CODES)

    def test_gpt2(self, attention: str, dropout: float) -> None:
        assert not assert_exact(seeded(lambda: gpt2(attention, dropout)), of_next_tokens, CODES)

    def test_gpt2_that_classifies(self, attention: str, dropout: float) -> None:
        model = seeded(lambda: gpt2_classifier(attention, dropout))
        assert not assert_exact(model, of_masked, CODES)


@pytest.mark.parametrize("padded", [0, 1])
def test_a_mask_that_the_model_drops_where_nothing_is_masked(padded: int) -> None:
    mask = torch.ones(2, IDS.shape[-1], dtype=torch.long)
    mask[padded, -1] = 0

    def losses(model: nn.Module, step: int) -> Tensor:
        logits: Tensor = model(input_ids=IDS[step][:2], attention_mask=mask).logits
        return logits.square().sum(1)

    codes = [torch.tensor([0, 1]), torch.tensor([1, 0])]
    assert not assert_exact(seeded(bert), losses, codes, batch_dim=0, check=True)


@pytest.mark.parametrize("build", [bert, gpt2_classifier])
def test_every_step_checked(build: Callable[[], nn.Module]) -> None:
    assert not assert_exact(seeded(build), of_masked, CODES, check=True)


@pytest.mark.parametrize("build", [bert, gpt2])
def test_activation_checkpointing_as_transformers_switches_it_on(
    build: Callable[..., nn.Module],
) -> None:
    """GPT-2 returns its cache in evaluation then, and not in training."""

    def checkpointed() -> nn.Module:
        model = build(dropout=0.1).train()
        getattr(model, "activation_checkpointing_enable")()  # noqa: B009 - nn.Module has it not
        return model

    losses = of_masked if build is bert else of_next_tokens
    assert not assert_exact(seeded(checkpointed), losses, CODES)


def test_a_cache_among_the_outputs_does_not_make_the_whole_batch_run_again() -> None:
    """GPT-2 holds its positions beside its layers, so that nearly all of it is run again."""
    model = seeded(gpt2)
    engine = GradientEngine(model, K)
    sizes: list[int] = []
    hook = model.get_submodule("transformer.h.0").register_forward_hook(
        lambda *args: sizes.append(len(args[1][0]))
    )
    for step in range(3):  # the first two are checked
        sizes.clear()
        with engine.watch(CODES[0]):
            of_next_tokens(model, step).mean().backward()
        engine.collect()
        model.zero_grad()
    hook.remove()
    counts = CODES[0].add(1).bincount().tolist()
    assert sorted(sizes) == sorted([B, *counts[:1], *counts[2:]])  # all but the largest group


def test_a_loss_that_the_model_computes_is_right_where_layers_alone_have_parameters() -> None:
    def inside(model: nn.Module, step: int) -> Tensor:
        loss: Tensor = model(input_ids=IDS[step], attention_mask=MASK, labels=TARGETS).loss
        return loss

    assert not assert_exact(seeded(bert), inside, CODES, oracle=of_masked)


def test_frozen_embeddings_and_lower_layers() -> None:
    def frozen() -> nn.Module:
        model = bert()
        model.get_submodule("bert.embeddings").requires_grad_(False)
        model.get_submodule("bert.encoder.layer.0").requires_grad_(False)
        return model

    assert not assert_exact(seeded(frozen), of_masked, CODES)


def test_a_dozen_steps_of_gpt2_are_those_of_the_definition() -> None:
    """The whole of it: cap, recombination, optimizer."""
    model, exact = seeded(gpt2), seeded(gpt2)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.3) for m in (model, exact)]
    clipper = FairClipper(model, NormCap.per_step(0.5), group_counts=[300, 200, 100])
    lowest = 1.0
    for step in range(12):
        codes = CODES[step % 3]
        parts = group_gradients(exact, of_next_tokens(exact, step % 3), codes, K)
        norms = [norm(part) for part in parts[:-1]]
        factors = [min(1.0, 0.5 * norms[2] / n) for n in norms[:2]] + [1.0]
        lowest = min(lowest, *factors)
        for parameter, grad in zip(exact.parameters(), combined(parts, factors), strict=True):
            parameter.grad = grad
        with clipper.watch(codes):
            of_next_tokens(model, step % 3).mean().backward()
        record = clipper.clip_grad_()
        np.testing.assert_allclose(record.factors, factors, rtol=1e-7)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert lowest < 0.7  # else nothing is tested
    for found, expected in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


# ------------------------------------------------------------------ Lightning


@pytest.mark.parametrize("by_parts", [False, True])
def test_a_lightning_module_in_a_plain_loop(by_parts: bool) -> None:
    model = seeded(lambda: Digits(by_parts=by_parts))
    model.get_submodule("encoder").eval()  # its batch statistics would mix the rows
    optimizer = getattr(model, "configure_optimizers")()  # noqa: B009
    engine = GradientEngine(model, K)
    for step in range(3):
        parts = group_gradients(model, classify_means(model, step), CODES[step], K)
        batch = VECTORS[step].mean(1), TARGETS
        with engine.watch(CODES[step]):
            getattr(model, "training_step")(batch, step).backward()  # noqa: B009
        assert_step(engine, model, parts)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("use_cache", [False, True])
def test_t5_with_its_cache(use_cache: bool) -> None:
    """Its attention fills the cache when it is run again: what is around it is run instead."""

    def translate(model: nn.Module, step: int) -> Tensor:
        targets = IDS[step, :, :4].contiguous()
        logits = model(input_ids=IDS[step], labels=targets).logits
        losses = functional.cross_entropy(logits.mT, targets, reduction="none")
        return losses.mean(1)

    assert not assert_exact(seeded(lambda: t5(use_cache=use_cache)), translate, CODES)
