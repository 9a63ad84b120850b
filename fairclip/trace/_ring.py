"""Rows of numbers in bounded memory: all recent ones, and ever fewer of the older ones."""

import torch
from torch import Tensor

_CHUNK = 1024  # rows that are allocated at once


class Ring:
    """The rows of the last ``capacity`` steps and of every n-th older one, on the host.

    `append` writes a row where it stays, and waits for nothing. What looks at rows (`read`,
    `widen`, `limit`) waits for the device.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.n_steps = 0
        self.every = 1  # an older step is kept if it is a multiple
        self._ring: list[int] = []  # the slot of a recent step is at step % capacity
        self._older: dict[int, int] = {}  # step -> slot
        self._free: list[int] = []  # slots
        self._n_slots = 0
        self._chunks: list[Tensor] = []  # slot i is row i % _CHUNK of chunk i // _CHUNK
        self._device: torch.device | None = None  # whose copies may be under way

    def __len__(self) -> int:
        return len(self._older) + len(self._ring)

    def append(self, row: Tensor) -> None:
        """Copy a row; from a CUDA device without waiting."""
        if row.is_cuda and self._device is None:
            self._device = row.device
            self._chunks = [chunk.pin_memory() for chunk in self._chunks]
        self._write(self._next_slot(len(row)), row)
        self.n_steps += 1

    def replace_last(self, row: Tensor) -> None:
        """Write over the row that was appended last."""
        self._write(self._ring[(self.n_steps - 1) % self.capacity], row)

    def widen(self, width: int) -> None:
        """Make the rows longer, with NaN at the end; waits for the device."""
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        for i, chunk in enumerate(self._chunks):
            wider = torch.full((_CHUNK, width), torch.nan, dtype=torch.float64)
            wider[:, : chunk.shape[1]] = chunk
            self._chunks[i] = wider if self._device is None else wider.pin_memory()

    def limit(self, capacity: int) -> None:
        """Keep fewer recent steps from now on; waits for the device if that drops some."""
        if capacity >= self.capacity or self.n_steps <= capacity:
            self.capacity = min(capacity, self.capacity)
            return
        steps, rows = self.read()
        first = self.n_steps - capacity  # recent from here on
        older = [step for step in steps if step < first and step % self.every == 0]
        self.capacity = capacity
        kept = {*older, *range(first, self.n_steps)}
        chosen = [i for i, step in enumerate(steps) if step in kept]
        self.restore(self.n_steps, self.every, [steps[i] for i in chosen], rows[chosen])
        self._thin()

    def _write(self, slot: int, row: Tensor) -> None:
        chunk = self._chunks[slot // _CHUNK]
        if row.is_cuda:
            chunk[slot % _CHUNK].copy_(row, non_blocking=True)
        else:
            chunk.numpy()[slot % _CHUNK] = row.numpy()

    def read(self) -> tuple[list[int], Tensor]:
        """Return the kept steps, oldest first, and a copy of their rows."""
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        recent = range(self.n_steps - len(self._ring), self.n_steps)
        slots = [*self._older.values(), *(self._ring[step % self.capacity] for step in recent)]
        chunks = self._chunks or [torch.empty(0, 0, dtype=torch.float64)]
        return [*self._older, *recent], torch.cat(chunks)[slots]

    def last(self) -> Tensor:
        """Return the row that was appended last, an empty one before the first."""
        if not self._ring:
            return torch.empty(0, dtype=torch.float64)
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        slot = self._ring[(self.n_steps - 1) % self.capacity]
        return self._chunks[slot // _CHUNK][slot % _CHUNK]

    def restore(self, n_steps: int, every: int, steps: list[int], rows: Tensor) -> None:
        """Hold what `read` returned, in the place of the rows so far."""
        self.n_steps, self.every = n_steps, every
        n_older = len(steps) - min(n_steps, self.capacity)
        self._older = {step: slot for slot, step in enumerate(steps[:n_older])}
        self._ring = [0] * (len(steps) - n_older)
        for slot, step in enumerate(steps[n_older:], start=n_older):
            self._ring[step % self.capacity] = slot
        self._free, self._n_slots, self._chunks, self._device = [], 0, [], None
        for row in rows:
            slot = self._new_slot(len(row))
            self._chunks[slot // _CHUNK][slot % _CHUNK] = row

    def _next_slot(self, width: int) -> int:
        if len(self._ring) < self.capacity:
            self._ring.append(self._new_slot(width))
            return self._ring[-1]
        place, leaving = self.n_steps % self.capacity, self.n_steps - self.capacity
        if leaving % self.every == 0:
            self._older[leaving] = self._ring[place]
            self._thin()
            self._ring[place] = self._free.pop() if self._free else self._new_slot(width)
        return self._ring[place]

    def _new_slot(self, width: int) -> int:
        if self._n_slots == len(self._chunks) * _CHUNK:
            pinned = self._device is not None
            self._chunks.append(torch.empty(_CHUNK, width, dtype=torch.float64, pin_memory=pinned))
        self._n_slots += 1
        return self._n_slots - 1

    def _thin(self) -> None:
        while len(self._older) > max(1, self.capacity // 10):
            self.every *= 2
            for step in [step for step in self._older if step % self.every]:
                self._free.append(self._older.pop(step))
