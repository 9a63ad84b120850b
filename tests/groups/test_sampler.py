import copy
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

from fairclip.groups import GroupBatchSampler, with_groups
from tests.groups._properties import (
    assert_as_even_as_integers_allow,
    assert_permutation,
    counts_per_batch,
)

CODES = st.lists(st.integers(-1, 4), min_size=1, max_size=60).map(np.array)
GROUPS = np.repeat([0, 1, 2, -1], [50, 20, 3, 7])


@settings(derandomize=True, deadline=None, max_examples=100)
@given(groups=CODES, batch_size=st.integers(1, 70), seed=st.integers(0, 5))
def test_stratified_is_an_even_permutation(
    groups: NDArray[np.int64], batch_size: int, seed: int
) -> None:
    sampler = GroupBatchSampler(groups, batch_size, seed=seed)
    for _ in range(2):
        batches = list(sampler)
        assert len(batches) == len(sampler) == -(-len(groups) // batch_size)
        assert_permutation(batches, len(groups))
        counts = counts_per_batch(batches, groups)
        assert_as_even_as_integers_allow(counts)
        assert_as_even_as_integers_allow(counts.sum(axis=1, keepdims=True))
        assert max(map(len, batches)) <= batch_size


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    groups=CODES, batch_size=st.integers(1, 20), world_size=st.integers(1, 4), drop=st.booleans()
)
def test_ranks_share_every_step(
    groups: NDArray[np.int64], batch_size: int, world_size: int, drop: bool
) -> None:
    def sampler(rank: int) -> GroupBatchSampler:
        return GroupBatchSampler(
            groups, batch_size, drop_last=drop, rank=rank, world_size=world_size
        )

    n_rows, per_step = len(groups), batch_size * world_size
    n_steps = n_rows // per_step if drop else -(-n_rows // per_step)
    if not 0 < n_steps * world_size <= n_rows:
        with pytest.raises(ValueError, match="too few"):
            sampler(0)
        return
    ranks = [list(sampler(rank)) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {n_steps}
    rows = [row for batches in ranks for batch in batches for row in batch]
    assert len(rows) == len(set(rows)) == (n_steps * per_step if drop else n_rows)
    steps = [[row for batch in step for row in batch] for step in zip(*ranks, strict=True)]
    assert_as_even_as_integers_allow(counts_per_batch(steps, groups))
    every = [batch for batches in ranks for batch in batches]
    assert_as_even_as_integers_allow(counts_per_batch(every, groups))
    if drop:
        assert {len(batch) for batch in every} == {batch_size}


@settings(derandomize=True, deadline=None, max_examples=50)
@given(groups=CODES, batch_size=st.integers(1, 20), seed=st.integers(0, 5))
def test_balanced_gives_every_group_the_count_of_the_largest(
    groups: NDArray[np.int64], batch_size: int, seed: int
) -> None:
    batches = list(GroupBatchSampler(groups, batch_size, mode="balanced", seed=seed))
    counts = counts_per_batch(batches, groups)
    assert_as_even_as_integers_allow(counts)
    codes, sizes = np.unique(groups, return_counts=True)
    largest = max(sizes[codes >= 0], default=0)
    expected = np.where(codes < 0, sizes, largest)
    assert counts.sum(axis=0).tolist() == expected.tolist()
    drawn = np.bincount([row for batch in batches for row in batch], minlength=len(groups))
    for code, size in zip(codes, sizes, strict=True):
        times = drawn[groups == code]
        assert times.max() - times.min() <= 1
        assert times.min() == (1 if code < 0 else largest // size)
    assert max(map(len, batches)) <= batch_size


def test_a_case_worked_by_hand() -> None:
    groups = np.array([0] * 6 + [1] * 3 + [-1])
    batches = list(GroupBatchSampler(groups, batch_size=4))
    counts = counts_per_batch(batches, groups)  # -1, 0, 1 in each of 3 batches
    assert counts[:, 1:].tolist() == [[2, 1]] * 3
    assert sorted(counts[:, 0]) == [0, 0, 1]


def test_a_group_smaller_than_the_number_of_batches_meets_each_batch_in_turn() -> None:
    groups = np.array([0] * 39 + [1])
    sampler = GroupBatchSampler(groups, batch_size=10)
    where = [next(i for i, batch in enumerate(sampler) if 39 in batch) for _ in range(200)]
    counts = np.bincount(where, minlength=4)
    assert counts.min() > 30  # 50 expected, standard deviation 6


def test_rows_meet_each_other_at_random_within_their_groups() -> None:
    groups = np.repeat([0, 1], 4)
    sampler = GroupBatchSampler(groups, batch_size=4)
    together = sum(any({0, 1} <= set(batch) for batch in sampler) for _ in range(600))
    assert 150 < together < 250  # one of three partners: 200, standard deviation 12


def test_drop_last_leaves_out_other_rows_in_each_epoch() -> None:
    sampler = GroupBatchSampler(np.zeros(10, dtype=int), batch_size=4, drop_last=True)
    seen = [{row for batch in sampler for row in batch} for _ in range(20)]
    assert {len(rows) for rows in seen} == {8}
    assert set.union(*seen) == set(range(10))


@pytest.mark.parametrize("mode", ["stratified", "balanced"])
def test_epochs_differ_and_the_seed_repeats_them(mode: Any) -> None:
    first, second = (GroupBatchSampler(GROUPS, 16, mode, seed=3) for _ in range(2))
    epochs = [list(first) for _ in range(3)]
    assert epochs == [list(second) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert list(GroupBatchSampler(GROUPS, 16, mode, seed=4)) != epochs[0]


def test_the_order_of_batches_ignores_the_global_random_state() -> None:
    np.random.seed(1)  # noqa: NPY002
    first = list(GroupBatchSampler(GROUPS, 16))
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    assert list(GroupBatchSampler(GROUPS, 16)) == first


@pytest.mark.parametrize("n_drawn", range(6))
@pytest.mark.parametrize("mode", ["stratified", "balanced"])
def test_it_resumes_after_any_batch(n_drawn: int, mode: Any) -> None:
    sampler = GroupBatchSampler(GROUPS, 16, mode)
    list(sampler)
    epoch = iter(sampler)
    list(islice(epoch, n_drawn))
    state = copy.deepcopy(sampler.state_dict())
    rest = [list(epoch), list(sampler), list(sampler)]
    other = GroupBatchSampler(GROUPS, 16, mode)
    list(islice(other, 2))  # a position that the state replaces
    other.load_state_dict(state)
    assert [list(other), list(other), list(other)] == rest


def test_a_loop_left_early_starts_the_next_epoch() -> None:
    sampler, whole = GroupBatchSampler(GROUPS, 16), GroupBatchSampler(GROUPS, 16)
    list(islice(sampler, 2))
    list(whole)
    assert list(sampler) == list(whole)


def test_any_rank_takes_the_state_of_another() -> None:
    ranks = [GroupBatchSampler(GROUPS, 8, rank=rank, world_size=2) for rank in range(2)]
    list(islice(ranks[0], 3))
    ranks[1].load_state_dict(ranks[0].state_dict())
    whole = list(GroupBatchSampler(GROUPS, 8, rank=1, world_size=2))
    assert list(ranks[1]) == whole[3:]


def test_a_state_of_other_settings_is_rejected() -> None:
    state = GroupBatchSampler(GROUPS, 16).state_dict()
    with pytest.raises(ValueError, match="saved with batch_size=16, this sampler has 8"):
        GroupBatchSampler(GROUPS, 8).load_state_dict(state)
    with pytest.raises(ValueError, match="saved with seed=0"):
        GroupBatchSampler(GROUPS, 16, seed=1).load_state_dict(state)


def test_a_data_loader_takes_it() -> None:
    dataset = with_groups(TensorDataset(torch.arange(len(GROUPS))), GROUPS)
    loader = DataLoader(dataset, batch_sampler=GroupBatchSampler(GROUPS, 16))
    rows = [(inputs, codes) for inputs, codes in loader]
    assert torch.equal(torch.cat([r for r, _ in rows]).sort().values, torch.arange(80))
    for inputs, codes in rows:
        assert codes.dtype == torch.int64
        assert codes.tolist() == GROUPS[inputs.numpy()].tolist()


def test_tensors_and_lists_are_taken() -> None:
    as_list = list(GroupBatchSampler(GROUPS.tolist(), 16))
    assert list(GroupBatchSampler(torch.from_numpy(GROUPS), 16)) == as_list


@pytest.mark.parametrize("bad", [[0.0, 1.0], [0, float("nan")], [True, False], ["a", "b"]])
def test_codes_that_are_no_integers_are_rejected(bad: Any) -> None:
    with pytest.raises(TypeError, match="must be integers"):
        GroupBatchSampler(bad, 1)


@pytest.mark.parametrize(
    ("groups", "arguments", "message"),
    [
        ([0, -2], {"batch_size": 1}, "got -2"),
        ([[0, 1]], {"batch_size": 1}, r"got the shape \(1, 2\)"),
        (np.zeros(0, dtype=int), {"batch_size": 1}, "0 rows are too few"),
        ([0, 1], {"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ([0, 1], {"batch_size": 3, "drop_last": True}, "too few"),
        ([0, 1], {"batch_size": 1, "seed": -1}, "`seed` must be at least 0"),
        ([0, 1], {"batch_size": 1, "world_size": 0}, "`world_size` must be at least 1"),
        ([0, 1], {"batch_size": 1, "rank": 2, "world_size": 2}, "`rank` must be in 0 .. 1"),
        ([0, 1], {"batch_size": 1, "mode": "random"}, "`mode` must be"),
    ],
)
def test_bad_arguments_are_rejected(groups: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupBatchSampler(groups, **arguments)
