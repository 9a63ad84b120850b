"""Where a model trains, and the random numbers that are drawn there."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def find_device(name: str) -> torch.device:
    """Return the device called ``name``; "auto" is a GPU if there is one.

    Raises:
        ValueError: If there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # an unknown name; a build without CUDA
        raise ValueError(f"`device` {name!r} is not available: {error}") from error


_turn = threading.RLock()  # seeded blocks may stand inside each other


def _renew_turn() -> None:
    """In a forked process, no thread is left that could end its turn."""
    global _turn
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_turn)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators of the CPU and of ``device``; restore both on the way out.

    All threads of a process share these generators, so seeded blocks of several threads take
    turns: what they draw is repeatable, and they are no faster than one after the other. A thread
    that draws outside of such a block is not held up, and disturbs the one that is inside.
    """
    on_gpu = device.type == "cuda"
    with _turn, torch.random.fork_rng(devices=[device] if on_gpu else []):
        # Not torch.manual_seed, which would also seed the other devices.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
