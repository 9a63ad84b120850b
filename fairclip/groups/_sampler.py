"""Batches that hold every group as evenly as possible. Shapes: N rows, K groups."""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from fairclip.groups._codes import check_codes

_Mode = Literal["stratified", "balanced"]
_Rows = NDArray[np.int64]


class GroupBatchSampler(Sampler[list[int]]):
    r"""Draw batches of row numbers, with each group spread evenly over an epoch's batches.

    "stratified": an epoch is a permutation of all rows. Of the :math:`n_k` rows of group k, each of
    the m batches holds

    .. math:: \lfloor n_k / m \rfloor \quad\text{or}\quad \lceil n_k / m \rceil,

    so a group with fewer rows than batches is absent from some. The batches' own sizes differ by
    one row at most too, and none is above ``batch_size``. "balanced": every group counts as many
    rows as the largest, smaller groups' rows being repeated; then the same. In both, unknown rows
    (-1) are spread evenly, each once an epoch.

    Epochs count themselves: each ``iter()`` starts the next one, with its own order, which depends
    on nothing but ``seed`` and the epoch's number. With several ranks, an epoch is m steps of
    ``world_size`` batches, one for each rank; the numbers above hold for the steps and for the
    batches, and all ranks take the same number of steps.

    Args:
        groups: ``(N,)`` integer codes as from :meth:`GroupEncoder.transform`, -1 for unknown.
        batch_size: The most rows in a batch, on each rank.
        mode: "stratified" or "balanced".
        drop_last: Give every batch exactly ``batch_size`` rows and leave the remainder out, drawn
            anew each epoch; otherwise batches are a little smaller instead.
        seed: From 0 up; the same on every rank.
        rank: The number of this process, in 0 .. ``world_size`` - 1.
        world_size: How many processes share an epoch.

    Raises:
        TypeError: If ``groups`` are not integers.
        ValueError: If an argument is out of range, or there are too few rows for a batch each.

    Example:
        >>> from fairclip.groups import GroupBatchSampler
        >>> groups = [0, 0, 0, 0, 0, 0, 1, 1, 1]
        >>> sampler = GroupBatchSampler(groups, batch_size=3)
        >>> [sorted(groups[row] for row in batch) for batch in sampler]
        [[0, 0, 1], [0, 0, 1], [0, 0, 1]]
    """

    def __init__(
        self,
        groups: Any,
        batch_size: int,
        mode: _Mode = "stratified",
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if mode not in get_args(_Mode):
            raise ValueError(f"`mode` must be 'stratified' or 'balanced', got {mode!r}.")
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("world_size", world_size, 1),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        if not 0 <= rank < world_size:
            raise ValueError(f"`rank` must be in 0 .. {world_size - 1}, got {rank}.")
        codes, kinds, counts = np.unique(
            check_codes(groups), return_inverse=True, return_counts=True
        )
        repeated = (codes >= 0) & (mode == "balanced")
        self._quotas = np.where(repeated, counts.max(where=codes >= 0, initial=0), counts)
        self._kinds = kinds  # (N,), codes without gaps, the unknown among them
        self._members = np.split(np.argsort(kinds, kind="stable"), np.cumsum(counts)[:-1])
        self._batch_size, self._mode, self._drop_last = batch_size, mode, drop_last
        self._seed, self._rank, self._world_size = seed, rank, world_size

        n_rows, per_step = int(self._quotas.sum()), batch_size * world_size
        self._n_steps = n_rows // per_step if drop_last else -(-n_rows // per_step)
        if not 0 < self._n_steps * world_size <= n_rows:
            raise ValueError(
                f"{n_rows} rows are too few for batches of {batch_size} on {world_size} rank(s) "
                f"with `drop_last={drop_last}`: lower `batch_size`, or change `drop_last`."
            )
        self._epoch = 0  # the one that is being drawn, or the next
        self._n_drawn = 0  # batches of it
        self._resumed = False

    def __len__(self) -> int:
        """Return the number of batches in an epoch, for each rank."""
        return self._n_steps

    def __iter__(self) -> Iterator[list[int]]:
        """Draw the next epoch, or the rest of the one that ``load_state_dict`` set."""
        if self._n_drawn and not self._resumed:  # the loop before this one stopped early
            self._epoch, self._n_drawn = self._epoch + 1, 0
        self._resumed = False
        for batch in self._batches()[self._n_drawn :]:
            self._n_drawn += 1
            yield batch.tolist()
        self._epoch, self._n_drawn = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position, to go on from with the next batch, in the middle of an epoch too.

        A DataLoader with workers draws batches ahead of the training loop, and near the end of an
        epoch begins the next: set ``"epoch"`` and ``"n_drawn"`` to where the loop is. After n
        batches of epochs that were drawn to their ends that is ``divmod(n, len(sampler))``.
        """
        return {**self._settings(), "epoch": self._epoch, "n_drawn": self._n_drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken: the next ``iter()`` draws the rest of that epoch.

        Raises:
            ValueError: If the state is from a sampler with other settings, the rank aside.
        """
        for name, value in self._settings().items():
            if state[name] != value:
                raise ValueError(
                    f"The state was saved with {name}={state[name]!r}, this sampler has {value!r}."
                )
        self._epoch, self._n_drawn = state["epoch"], state["n_drawn"]
        self._resumed = True

    def _settings(self) -> dict[str, Any]:
        return {
            "version": 1,
            "n_rows": len(self._kinds),
            "batch_size": self._batch_size,
            "mode": self._mode,
            "drop_last": self._drop_last,
            "seed": self._seed,
            "world_size": self._world_size,
        }

    def _batches(self) -> list[_Rows]:
        rng = np.random.default_rng((self._seed, self._epoch))
        rows = self._draw(rng)
        if self._drop_last:
            kept = self._n_steps * self._world_size * self._batch_size
            rows = rng.permutation(rows)[:kept]
        # Dealt out one by one like cards sorted by group, in a new order of groups each epoch.
        order = rng.permutation(len(self._members))
        rows = rows[_sort(order[self._kinds[rows]], rng)]
        turn = np.arange(len(rows))
        step = rng.permutation(self._n_steps)[turn % self._n_steps]
        rank = rng.permutation(self._world_size)[turn // self._n_steps % self._world_size]
        rows, step = rows[rank == self._rank], step[rank == self._rank]
        ends = np.cumsum(np.bincount(step, minlength=self._n_steps))
        return np.split(rows[_sort(step, rng)], ends[:-1])

    def _draw(self, rng: np.random.Generator) -> _Rows:
        parts = []
        for members, quota in zip(self._members, self._quotas, strict=True):
            copies, rest = divmod(int(quota), len(members))
            parts += [np.tile(members, copies), rng.permutation(members)[:rest]]
        return np.concatenate(parts)


def _sort(keys: _Rows, rng: np.random.Generator) -> _Rows:
    """Return the positions that sort ``keys``, in random order where they are equal."""
    shuffled = rng.permutation(len(keys))
    return shuffled[np.argsort(keys[shuffled], kind="stable")]
