"""A clipper whose factors come from what it observed. Shapes: B rows, K groups."""

import io
import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import fairclip
from fairclip import FairClipper, FairclipWarning, GroupEncoder, NormCap, TargetCap
from fairclip.clipping import Norm
from tests._no_waiting import NoWaiting
from tests.clipper._inputs import COUNTS, Batch, K, make_batches, mlp, row_losses
from tests.clipper._properties import (
    assert_close,
    assert_same,
    counts_in,
    grads,
    hooks_unchanged,
    parts_of,
    step,
    weighed_step,
)
from tests.gradients._oracle import combined, norm

CAP = TargetCap("worst_cell", gap=0.05, rate=1.0, smoothing=0.5)
ALL_ONES = TargetCap("worst_cell", gap=1.0)


def build(model: nn.Module, cap: TargetCap | NormCap = CAP, **options: Any) -> FairClipper:
    return FairClipper(model, cap, **{"group_counts": COUNTS, **options})


def observe(clipper: FairClipper, model: nn.Module, batch: Batch) -> Tensor:
    """Observe the batch; return the factors that follow by the cap alone."""
    inputs, targets, codes = batch
    clipper.observe(model(inputs).argmax(1), targets, codes)
    found = clipper.state_dict()["cap"]["factors"]
    assert isinstance(found, Tensor)
    return found


def observe_skewed(clipper: FairClipper) -> Tensor:
    """Observe that the groups are right in 3, 2 and 1 of 4 rows, and return the factors."""
    codes = torch.arange(K).repeat_interleave(4)
    predicted = torch.tensor([1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0])
    clipper.observe(predicted, torch.ones(12), codes)
    found = CAP(torch.tensor([3, 2, 1]), torch.tensor([4, 4, 4]), CAP.init(COUNTS))
    assert 0 < found[0] < found[1] < found[2] == 1
    return found


# ------------------------------------------------------------------ observing


def test_it_counts_what_was_predicted_right() -> None:
    clipper, cap = build(mlp()), CAP
    state = cap.init(COUNTS)
    for inputs, targets, codes in make_batches(10):
        predicted = inputs.argmax(1) % 3
        rows = counts_in(codes)
        hits = [int(((predicted == targets) & (codes == k)).sum()) for k in range(K)]
        expected = cap(torch.tensor(hits), torch.tensor(rows), state)
        clipper.observe(predicted, targets, codes)
        assert torch.equal(clipper.state_dict()["cap"]["factors"], expected)
    assert (expected < 1).any()


def test_predictions_and_targets_may_be_of_many_kinds() -> None:
    predicted, targets, codes = [1, 0, 1, 0, 1], [1, 1, 0, 0, 1], [0, 0, 1, 2, -1]
    found = []
    for given in (
        (predicted, targets, codes),
        (torch.tensor(predicted) > 0, torch.tensor(targets).float(), torch.tensor(codes)),
        (np.array(predicted, dtype=np.int8), pd.Series(targets), pd.Series(codes)),
        (torch.tensor([predicted]), torch.tensor([targets]), torch.tensor([codes])),  # (1, T)
    ):
        clipper = build(mlp())
        clipper.observe(*given)
        found.append([clipper.state_dict()["cap"][name].tolist() for name in ("hits", "rows")])
    assert found[0] == [[1, 0, 1, 2], [2, 1, 1, 4]]  # and of the four known rows
    assert found == [found[0]] * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_row_counts_by_the_probability_of_its_class(dtype: torch.dtype) -> None:
    # Exact in every dtype; NaN counts as 0, and the last row is of an unknown group.
    of_class_1 = torch.tensor([0.75, 0.25, 1.0, math.nan, 0.5], dtype=dtype)
    targets, codes = torch.tensor([1, 0, 0, 1, 7]), torch.tensor([0, 0, 1, 2, -1])
    by_class = torch.stack((1 - of_class_1, of_class_1), 1)
    thirds = torch.cat((by_class, torch.zeros(5, 1, dtype=dtype)), 1)
    for given in (of_class_1, by_class, thirds.requires_grad_(), of_class_1[None]):
        clipper = build(mlp())
        shape = (1, 5) if given.shape == (1, 5) else (5,)
        clipper.observe(given, targets.view(shape).float(), codes.view(shape))
        state = clipper.state_dict()["cap"]
        assert state["hits"].tolist() == [1.5, 0, 0, 1.5]
        assert state["rows"].tolist() == [2, 1, 1, 4]


def test_sure_probabilities_are_codes() -> None:
    hard, soft = build(mlp()), build(mlp())
    for inputs, targets, codes in make_batches(10):
        predicted = inputs.argmax(1) % 3
        hard.observe(predicted, targets, codes)
        soft.observe(nn.functional.one_hot(predicted, 3).double(), targets, codes)
    for name in ("hits", "rows", "factors"):
        assert torch.equal(hard.state_dict()["cap"][name], soft.state_dict()["cap"][name])
    assert (hard.state_dict()["cap"]["factors"] < 1).any()


@pytest.mark.parametrize("with_label", [True, False])
def test_an_encoder_gives_counts_and_labels(with_label: bool) -> None:
    labels = [0, 1, 0, 0, 1, 1]
    sex = pd.Series(["f", "f", "m", "m", "m", "m"], name="sex")
    encoder = GroupEncoder(with_label=with_label).fit(sex, labels)
    target = "equalized_odds" if with_label else "accuracy"
    cap = TargetCap(target, gap=0.0, rate=9.0, smoothing=0, min_reference_rows=1)
    clipper = FairClipper(mlp(), cap, encoder=encoder)
    codes = encoder.transform(sex, labels)
    clipper.observe([1, 0, 0, 0, 1, 1], labels, codes)  # men are right, women are wrong
    factors = dict(
        zip(encoder.names_, clipper.state_dict()["cap"]["factors"].tolist(), strict=True)
    )
    if with_label:  # 2 men and a woman of each label: equal votes, and 3 rows in all
        assert factors == pytest.approx(
            {"sex=f, y=0": 1.5, "sex=f, y=1": 1.5, "sex=m, y=0": 0.75, "sex=m, y=1": 0.75}
        )
    else:
        assert factors == pytest.approx({"sex=f": 1.5, "sex=m": 0.75})


def test_nothing_waits_for_the_device() -> None:
    model = mlp(dtype=torch.float32)
    clipper = build(model, clip=Norm(0.1))
    for number, (inputs, targets, codes) in enumerate(make_batches(4, dtype=torch.float32)):
        outputs = model(inputs)
        losses = nn.functional.cross_entropy(outputs, targets, reduction="none")
        with NoWaiting():
            predicted = outputs.softmax(1) if number % 2 else outputs.argmax(1)
            clipper.observe(predicted, targets, codes)
            clipper.weigh(losses, codes).mean().backward()
            clipper.clip_grad_()
        model.zero_grad()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_a_cuda_device() -> None:
    model, twin = mlp().cuda(), mlp()
    clipper, other = build(model), build(twin)
    for inputs, targets, codes in make_batches(6):
        there = inputs.cuda(), targets.cuda(), codes
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            clipper.observe(model(there[0]).argmax(1), there[1], codes)
            clipper.observe(model(there[0]).softmax(1), there[1], codes)
            record = weighed_step(clipper, model, there)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        observe(other, twin, (inputs, targets, codes))
        other.observe(twin(inputs).softmax(1), targets, codes)
        torch.testing.assert_close(
            record.factors.cpu(), weighed_step(other, twin, (inputs, targets, codes)).factors
        )
        assert_close([g.cpu() for g in grads(model)], grads(twin))
        model.zero_grad()
        twin.zero_grad()


# ------------------------------------------------------------------ steps


@pytest.mark.parametrize("how", ["weigh", "watch", "backward"])
def test_the_gradient_is_that_of_the_factors(how: str) -> None:
    model = mlp()
    clipper = build(model)
    for batch in make_batches(6):
        factors = observe(clipper, model, batch)
        parts = parts_of(model, batch)
        if how == "weigh":
            record = weighed_step(clipper, model, batch)
        elif how == "watch":
            record = step(clipper, model, batch)
        else:
            clipper.backward(row_losses(model, batch), batch[2])
            record = clipper.clip_grad_()
        assert torch.equal(record.factors, factors)
        assert_close(grads(model), combined(parts, factors.tolist()), 1e-10)
        if how == "weigh":
            assert record.group_norms.isnan().all()
        else:
            for k in range(K):
                if record.counts[k]:
                    assert record.group_norms[k].item() == pytest.approx(norm(parts[k]))
        model.zero_grad()
    assert (factors < 1).any()


@pytest.mark.parametrize("take", [step, weighed_step], ids=["watched", "weighed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_while_all_factors_are_1_the_gradient_is_bit_identical(
    take: Any, dtype: torch.dtype
) -> None:
    model = mlp(dtype=dtype)
    clipper = build(model, ALL_ONES)
    for batch in make_batches(5, dtype=dtype):
        row_losses(model, batch).mean().backward()
        expected = [g.clone() for g in grads(model)]
        model.zero_grad()
        observe(clipper, model, batch)
        take(clipper, model, batch)
        for found, right in zip(grads(model), expected, strict=True):
            assert torch.equal(found, right)
        model.zero_grad()


def test_weighed_steps_leave_the_model_alone() -> None:
    model = mlp()
    with hooks_unchanged(model):
        clipper = build(model, measure_every=1)
        for batch in make_batches(6):
            observe(clipper, model, batch)
            with hooks_unchanged(model):
                losses = clipper.weigh(row_losses(model, batch), batch[2])
            losses.mean().backward()
            clipper.clip_grad_()
            model.zero_grad()


# Of dynamo itself: it looks at `.grad` of everything.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.filterwarnings("ignore:.*(deprecated|should not be inst):DeprecationWarning")
def test_a_compiled_model_is_compiled_once() -> None:
    torch._dynamo.reset()
    plain = mlp()
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    model: Any = torch.compile(mlp(), backend=backend, fullgraph=True)
    clippers = build(model), build(plain)
    for batch in make_batches(4):
        for clipper, each in zip(clippers, (model, plain), strict=True):
            each.zero_grad()
            observe(clipper, each, batch)
            weighed_step(clipper, each, batch)
        assert_close(grads(model), grads(plain))
    assert len(graphs) == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("take", [step, weighed_step], ids=["watched", "weighed"])
def test_what_is_observed_within_a_step_is_on_record_where_it_was_applied(take: Any) -> None:
    model = mlp()
    clipper = build(model)
    batch = make_batches(1)[0]
    parts = parts_of(model, batch)
    if take is weighed_step:
        losses = clipper.weigh(row_losses(model, batch), batch[2])
        later = observe_skewed(clipper)
        losses.mean().backward()
        record = clipper.clip_grad_()
        assert record.factors.tolist() == [1.0] * K
    else:
        with clipper.watch(batch[2]):
            row_losses(model, batch).mean().backward()
        later = observe_skewed(clipper)
        record = clipper.clip_grad_()
        assert torch.equal(record.factors, later)
    assert_close(grads(model), combined(parts, record.factors.tolist()), 1e-10)
    model.zero_grad()
    assert torch.equal(take(clipper, model, batch).factors, later)


def test_a_norm_that_is_not_finite_makes_all_factors_1() -> None:
    model = mlp()
    clipper = build(model)
    observe_skewed(clipper)
    inputs, targets, codes = make_batches(1)[0]
    inputs[0] = torch.inf
    record = step(clipper, model, (inputs, targets, codes))
    assert record.factors.tolist() == [1.0] * K
    assert record.nonfinite.any()


def test_the_trace_has_the_factors() -> None:
    model = mlp()
    clipper = build(model, clip=Norm(0.05))
    factors = []
    for number, batch in enumerate(make_batches(60)):
        factors.append(observe(clipper, model, batch).tolist())
        (step if number % 2 else weighed_step)(clipper, model, batch)
        model.zero_grad()
    frame = clipper.trace.to_frame()
    assert frame[[f"factor[{k}]" for k in range(K)]].to_numpy().tolist() == factors
    assert frame.filter(like="cap_norm").isna().all(axis=None)
    assert frame.loc[frame["step"] % 2 == 1, "norm_uncapped"].notna().all()
    assert frame.loc[frame["step"] % 2 == 0, "norm_uncapped"].isna().all()
    assert clipper.trace.acted()["cap"] > 0.9
    stages = fairclip.advise(clipper.trace).stages
    assert stages.loc[(stages["stage"] == "cap") & (stages["scope"] == "all"), "acted"].item() > 0.9
    assert fairclip.Diagnosis.from_trace(clipper.trace) is not None


# ------------------------------------------------------------------ forgotten, saved, refused


@pytest.mark.parametrize("take", [step, weighed_step], ids=["watched", "weighed"])
def test_a_forgotten_observe_warns_once(take: Any) -> None:
    model = mlp()
    clipper = build(model)
    messages = []
    for batch in make_batches(210):
        with warnings.catch_warnings(record=True, category=FairclipWarning) as caught:
            warnings.simplefilter("always")
            take(clipper, model, batch)
        messages.append([str(one.message) for one in caught])
        model.zero_grad()
    (message,) = messages.pop(99)
    assert "`observe` was never called" in message
    assert not any(messages)


def test_no_warning_where_it_was_called() -> None:
    model = mlp()
    clipper = build(model)
    first, *batches = make_batches(120)
    observe(clipper, model, first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in batches:
            weighed_step(clipper, model, batch)
            model.zero_grad()


def test_no_warning_after_a_resume_where_it_was_called_before() -> None:
    model = mlp()
    clipper, resumed, forgotten = build(model), build(model), build(model)
    forgotten.load_state_dict(clipper.state_dict())
    observe(clipper, model, make_batches(1)[0])
    resumed.load_state_dict(clipper.state_dict())
    batches = make_batches(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in batches:
            weighed_step(resumed, model, batch)
            model.zero_grad()
    for batch in batches[1:]:
        weighed_step(forgotten, model, batch)
        model.zero_grad()
    with pytest.warns(FairclipWarning, match="`observe` was never called"):
        weighed_step(forgotten, model, batches[0])


def test_unknown_rows_alone_are_no_observation() -> None:
    model = mlp()
    clipper, batches = build(model), make_batches(100)
    for batch in batches[1:]:
        clipper.observe([1], [1], [-1])
        weighed_step(clipper, model, batch)
        model.zero_grad()
    with pytest.warns(FairclipWarning, match="`observe` was never called"):
        weighed_step(clipper, model, batches[0])


def test_what_is_written_into_a_record_does_not_reach_the_next_step() -> None:
    model = mlp()
    clipper = build(model)
    first, second = make_batches(2)
    factors = observe_skewed(clipper).clone()
    weighed_step(clipper, model, first).factors.zero_()
    model.zero_grad()
    assert torch.equal(weighed_step(clipper, model, second).factors, factors)


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    batches = make_batches(12, dtype=torch.float32)

    def start() -> tuple[Any, ...]:
        model = mlp(dtype=torch.float32)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        return model, optimizer, build(model)

    def run(parts: tuple[Any, ...], chosen: list[Batch]) -> None:
        model, optimizer, clipper = parts
        for number, batch in enumerate(chosen):
            if number % 3:
                observe(clipper, model, batch)
            weighed_step(clipper, model, batch)
            optimizer.step()
            optimizer.zero_grad()

    whole = start()
    run(whole, batches[:6])
    file = io.BytesIO()
    torch.save([part.state_dict() for part in whole], file)
    run(whole, batches[6:])
    file.seek(0)
    resumed = start()
    for part, state in zip(resumed, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    run(resumed, batches[6:])
    assert_same(resumed[0], whole[0])
    pd.testing.assert_frame_equal(
        resumed[2].trace.to_frame(), whole[2].trace.to_frame(), check_exact=True
    )


def test_the_state_of_another_kind_of_cap_is_refused() -> None:
    target, norms = build(mlp()), build(mlp(), NormCap())
    with pytest.raises(ValueError, match="The state is of a NormCap, and the cap is TargetCap"):
        target.load_state_dict(norms.state_dict())
    with pytest.raises(ValueError, match="The state is of a TargetCap, and the cap is NormCap"):
        norms.load_state_dict(target.state_dict())
    older = norms.state_dict()
    del older["kind"]  # as it was when there was one kind
    build(mlp(), NormCap()).load_state_dict(older)


def test_the_state_of_another_target_is_refused() -> None:
    saved = build(mlp()).state_dict()
    with pytest.raises(ValueError, match="`target` 'worst_cell', this one is 'accuracy'"):
        build(mlp(), TargetCap("accuracy", gap=0.05)).load_state_dict(saved)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (([0.7, -0.2], [1, 0], [0, 1]), ValueError, r"`sigmoid` or `softmax`"),
        (([0.7, 1.2], [1, 0], [0, 1]), ValueError, r"in \[0, 1\], got 1\.2"),
        (([[0.5, 1.5], [1.0, 0.0]], [1, 0], [0, 1]), ValueError, r"in \[0, 1\], got 1\.5"),
        (([0.7, 0.2], [1, 2], [0, 1]), ValueError, r"`targets` must be in 0\.\.1 .* got 2\."),
        (([0.7, 0.2], [1, -1], [0, 1]), ValueError, r"`targets` must be in 0\.\.1"),
        (([0.9, 0.9], [0.7, 0.2], [0, 1]), ValueError, r"`targets` must be in 0\.\.1 .* got 0\.7"),
        (([0.9, 0.9], [1, math.nan], [0, 1]), ValueError, r"`targets` must .* got nan"),
        (([[0.7], [0.2]], [1, 0], [0, 1]), ValueError, "at least 2 classes"),
        (([[1, 0], [0, 1]], [1, 0], [0, 1]), ValueError, "one shape"),
        (([1j, 0], [1, 0], [0, 1]), TypeError, "codes or probabilities"),
        (([1, 0], [1, 0, 1], [0, 1]), ValueError, "one shape"),
        (([[1], [0]], [1, 0], [0, 1]), ValueError, r"\(2, 1\), \(2,\) and \(2,\)"),
        (([1, 0], [1, 0], [0, 3]), ValueError, r"-1\.\.2"),
        (([1, 0], [1, 0], [-2, 0]), ValueError, r"-1\.\.2"),
        (([1, 0], [1, 0], [0.0, 1.0]), TypeError, "integer codes"),
        ((["yes", "no"], [1, 0], [0, 1]), TypeError, "str_"),
        (([], [], []), ValueError, "hold something"),
    ],
)
def test_observations_that_are_refused(given: Any, error: type[Exception], match: str) -> None:
    clipper = build(mlp())
    with pytest.raises(error, match=match):
        clipper.observe(*given)
    assert clipper.state_dict()["cap"]["rows"].tolist() == [0.0] * (K + 1)


def test_other_caps_observe_nothing() -> None:
    with pytest.raises(TypeError, match="`observe` is for a TargetCap, and the cap is NormCap"):
        build(mlp(), NormCap()).observe([1], [1], [0])


def test_a_target_cap_measures_nothing() -> None:
    rule = build(mlp())._rule
    assert not rule.is_due
    with pytest.raises(TypeError, match="No step of a TargetCap is measured"):
        rule.measure(np.eye(K + 1), np.ones(K), np.ones(K), torch.device("cpu"))


def test_counts_are_needed() -> None:
    with pytest.raises(ValueError, match="rows of each group"):
        FairClipper(mlp(), CAP, n_groups=3)
    with pytest.raises(ValueError, match="with_label=True"):
        build(mlp(), TargetCap("equalized_odds", gap=0.1))


def test_worst_cell_needs_the_labels_of_an_encoder() -> None:
    encoder = GroupEncoder().fit(pd.Series(["f", "m"] * 40, name="sex"))
    with pytest.raises(ValueError, match=r"'worst_cell', which compares cells.*with_label=True"):
        FairClipper(mlp(), CAP, encoder=encoder)
