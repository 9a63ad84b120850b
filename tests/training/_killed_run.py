"""A training run that is killed twenty times, beside one that is left alone.

Each life is a process of its own, forked so that it need not import torch again: what it knows of
the lives before is on disk. Run as a script, it prints what happened as JSON.
"""

import io
import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # each life would import it, when it makes an optimizer
from torch import nn
from torch.utils.data import DataLoader

from fairclip import Checkpoint, FairClipper, GroupBatchSampler, with_groups
from fairclip.clipping import Percentile
from tests.integrations.adult import codes, dataset, encoder

N_STEPS = 240
N_KILLS = 20
SAVE_EVERY = 2
DIE_AT = (6, 11, 16)  # the lives that end in the middle of writing, before and after replacing


def train(folder: Path, before_step: Callable[[int], None]) -> None:
    """Train to the end, from wherever the folder says; the states at the end are in end.pt."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.5)
    clipper = FairClipper(model, clip=Percentile(50, window=40), encoder=encoder)
    sampler = GroupBatchSampler(codes, batch_size=64)
    rows = with_groups(dataset, codes)
    loader = DataLoader(rows, batch_sampler=sampler, generator=torch.Generator())
    parts: dict[str, Any] = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "clipper": clipper,
        "sampler": sampler,
    }
    checkpoint = Checkpoint(folder / "run.pt", **parts)
    step = checkpoint.load()
    while step < N_STEPS:
        for inputs, targets, groups in loader:
            before_step(step)
            noise = random.gauss(0, 0.1) + 0.1 * np.random.rand()  # noqa: NPY002
            with clipper.watch(groups):
                nn.functional.cross_entropy(model(inputs + noise), targets).backward()
            clipper.clip_grad_()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            step += 1
            if step % SAVE_EVERY == 0:
                checkpoint.save(step)
            if step == N_STEPS:
                break
    states = {name: part.state_dict() for name, part in parts.items()}
    states["generators"] = [torch.get_rng_state(), random.getstate(), np.random.rand()]  # noqa: NPY002
    torch.save(states, folder / "end.pt")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_the_middle_of_writing() -> None:
    """Make the next checkpoint end after half of its bytes."""
    save = torch.save

    def write_half(content: object, file: Any) -> None:
        save(content, whole := io.BytesIO())
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        die()

    torch.save = write_half  # type: ignore[assignment]


def die_before_replacing() -> None:
    """Leave the next checkpoint written, under the name that it has meanwhile."""
    os.replace = lambda *_: die()


def die_after_replacing() -> None:
    """Leave the next checkpoint in its place, and no more."""
    replace = os.replace

    def replace_and_die(*paths: Any) -> None:
        replace(*paths)
        die()

    os.replace = replace_and_die  # type: ignore[assignment]


def live(folder: Path, prepare: Callable[[], None] | None = None) -> tuple[int, socket.socket]:
    """Begin a life: it says which step it is about to take, and waits for a sign."""
    ours, theirs = socket.socketpair()
    if pid := os.fork():
        theirs.close()
        return pid, ours
    ours.close()

    def before_step(step: int) -> None:
        theirs.send(step.to_bytes(4, "little"))
        theirs.recv(1)

    try:
        if prepare is not None:
            prepare()
        train(folder, before_step)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def follow(signs: socket.socket, n_steps: int) -> int:
    """Let a life take so many steps, or as many as it can; return the last that it began."""
    step = -1
    for _ in range(n_steps):
        if not (said := signs.recv(4)):
            break
        step = int.from_bytes(said, "little")
        signs.send(b".")
    return step


def run_killed(folder: Path) -> list[dict[str, Any]]:
    """Kill the run again and again; the last life ends by itself."""
    rng = np.random.default_rng(0)
    deaths = (die_in_the_middle_of_writing, die_before_replacing, die_after_replacing)
    prepared = dict(zip(DIE_AT, deaths, strict=True))
    lives = []
    for life in range(N_KILLS + 1):
        prepare = prepared.get(life)
        is_free = prepare is not None or life == N_KILLS
        pid, signs = live(folder, prepare)
        step = follow(signs, N_STEPS + 1 if is_free else int(rng.integers(2, 20)))
        if not is_free:  # somewhere in that step, or in the writing after it
            time.sleep(rng.uniform(0, 0.01))
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        lives.append({"step": step, "status": status, "sizes": sizes})
    return lives


def run_whole(folder: Path) -> int:
    """Leave the run alone."""
    pid, signs = live(folder)
    follow(signs, N_STEPS + 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)  # a process with threads must not fork
    whole, killed = Path(sys.argv[1]), Path(sys.argv[2])
    print(json.dumps({"whole": run_whole(whole), "lives": run_killed(killed)}))
