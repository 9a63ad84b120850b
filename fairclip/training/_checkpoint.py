"""A run on disk, written whole or not at all, and restored whole or not at all."""

import copy
import io
import operator
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from fairclip.training._rng import GlobalGenerators, OwnGenerator

_FORMAT = "fairclip.Checkpoint"
_VERSION = 1
_SHARED = "random numbers"  # no name of a part: it has a space


class Part(Protocol):
    """What a checkpoint can hold, such as a model, an optimizer, a scheduler or a clipper."""

    def state_dict(self) -> Any:
        """Return all that a resumed run needs."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Take over what `state_dict` returned."""


class Checkpoint:
    """Save a training run between two steps, and go on from there bit for bit.

    A file is written beside ``path``, forced to the disk and then put in its place, so that a
    process that is killed at any moment leaves the checkpoint before or the new one. What it was
    writing then, ``.<name>.partial``, is written over the next time. Loading runs no code that is
    in the file, and reads what was saved on a GPU on a machine without.

    Restored are the parts and the global random numbers of Python, NumPy (``np.random.seed``) and
    torch (CPU and CUDA). Not restored is whether modules are in training mode, and anything that is
    no part: another generator, another sampler. The same bits come out only of operations that give
    the same bits each time: ``torch.use_deterministic_algorithms`` on a GPU.

    Give a ``DataLoader`` a ``generator`` of its own, as in the example. Without, each ``iter()`` of
    it draws from torch's global one; a run that resumes in the middle of an epoch draws once more,
    and all later dropout masks are others. Count steps, as there: of the epoch to go on with there
    may be no batch left.

    ``DataLoader(num_workers=0)``, the default, needs no more than that. Workers draw batches ahead
    of the loop, and the sampler is ahead with them. Then, where each step takes one batch, set it
    back after ``load``::

        epoch, n_drawn = divmod(step, len(sampler))
        sampler.load_state_dict({**sampler.state_dict(), "epoch": epoch, "n_drawn": n_drawn})

    The random numbers that workers draw themselves begin anew, so a data set that augments at
    random resumes bit for bit at the beginning of an epoch only, with the loader's generator as a
    part.

    Args:
        path: The file. Its folder is made when needed.
        parts: By any names, what has ``state_dict`` and ``load_state_dict``, or is a
            ``torch.Generator``: model, optimizer, clipper, sampler, scheduler, ``GradScaler``, what
            a clipping mode's ``attach`` returned.

    Raises:
        TypeError: If a part is neither.

    Example:
        >>> import fairclip, torch
        >>> from torch import nn
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> groups = torch.arange(120) % 3 // 2
        >>> dataset = TensorDataset(torch.randn(120, 4), torch.rand(120, 1))
        >>> rows = fairclip.with_groups(dataset, groups)
        >>> def train(path, n_steps):
        ...     torch.manual_seed(0)
        ...     model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        ...     optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        ...     clipper = fairclip.FairClipper(model, group_counts=groups.bincount())
        ...     sampler = fairclip.GroupBatchSampler(groups, batch_size=24)
        ...     loader = DataLoader(rows, batch_sampler=sampler, generator=torch.Generator())
        ...     checkpoint = fairclip.Checkpoint(
        ...         path, model=model, optimizer=optimizer, clipper=clipper, sampler=sampler
        ...     )
        ...     step = checkpoint.load()
        ...     while step < n_steps:
        ...         for inputs, targets, codes in loader:
        ...             with clipper.watch(codes):
        ...                 nn.functional.mse_loss(model(inputs), targets).backward()
        ...             clipper.clip_grad_()
        ...             optimizer.step()
        ...             optimizer.zero_grad()
        ...             step += 1
        ...             checkpoint.save(step)
        ...             if step == n_steps:
        ...                 break
        ...     return model
        >>> whole = train("whole.pt", n_steps=12)
        >>> part = train("resumed.pt", n_steps=8)  # in the second epoch
        >>> resumed = train("resumed.pt", n_steps=12)
        >>> all(map(torch.equal, resumed.parameters(), whole.parameters()))
        True
    """

    def __init__(self, path: str | os.PathLike[str], /, **parts: Part | torch.Generator) -> None:
        self._path = Path(path).resolve()
        self._kinds = {name: type(part).__name__ for name, part in parts.items()}
        self._parts: dict[str, Part] = {}
        for name, part in parts.items():
            if isinstance(part, torch.Generator):
                part = OwnGenerator(part)
            if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
                raise TypeError(
                    f"`{name}` must have `state_dict` and `load_state_dict`, or be a "
                    f"torch.Generator, got {type(part).__name__}."
                )
            self._parts[name] = part
        self._parts[_SHARED] = GlobalGenerators()

    def save(self, step: int) -> None:
        """Write all parts in the place of the checkpoint before.

        To be called between two steps: of one that is under way, as of ``.grad``, nothing is saved,
        with a FairclipWarning.

        Args:
            step: What `load` is to return, such as the number of steps done.

        Raises:
            TypeError: If ``step`` is no whole number, or a part's state holds what could not be
                loaded again without running code. The checkpoint before stays.
        """
        content: dict[str, Any] = {
            "format": _FORMAT,
            "version": _VERSION,
            "step": operator.index(step),
            "kinds": self._kinds,
            "states": {name: part.state_dict() for name, part in self._parts.items()},
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{self._path.name}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            if get_unsafe_globals_in_checkpoint(partial):
                _raise_unsafe(content["states"])
            os.replace(partial, self._path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(self._path.parent)

    def load(self) -> int:
        """Restore all parts in place, on the devices where they are.

        Checked before anything is restored are the file, the names of the parts and their classes.
        Where a part then refuses its state, all parts are set back. What a part does not notice,
        nobody does: torch's optimizers take moments of other shapes, for one.

        Returns:
            The step that was saved; 0 where there is no checkpoint yet.

        Raises:
            ValueError: If the file is cut short, or of something else, or does not fit the parts.
                They are then as before.
            RuntimeError: If the clipper is in the middle of a step.
        """
        if not self._path.exists():
            return 0
        content = self._read()
        self._check_kinds(content["kinds"])
        before = {name: copy.deepcopy(part.state_dict()) for name, part in self._parts.items()}
        name = ""
        try:
            for name, part in self._parts.items():
                part.load_state_dict(content["states"][name])
        except Exception as error:
            for other, part in self._parts.items():
                part.load_state_dict(before[other])
            raise ValueError(
                f"{self._path} does not fit `{name}`, so nothing was restored. Make the parts as "
                f"they were when it was saved, or choose another path. ({error})"
            ) from error
        step: int = content["step"]
        return step

    def _read(self) -> dict[str, Any]:
        with self._path.open("rb") as file:
            try:
                if (damaged := zipfile.ZipFile(file).testzip()) is not None:  # torch does not look
                    raise zipfile.BadZipFile(f"{damaged} has another checksum.")
                file.seek(0)
                content = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:
                raise ValueError(
                    f"{self._path} is no checkpoint of fairclip, or is damaged. Remove it to begin "
                    "anew, or choose another path."
                ) from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"{self._path} is no checkpoint of fairclip: choose another path.")
        if (version := content.get("version")) != _VERSION:
            raise ValueError(
                f"{self._path} has version {version!r}, this fairclip reads {_VERSION}: resume "
                "with the fairclip that saved it, or choose another path."
            )
        layout = {"step": int, "kinds": dict, "states": dict}
        if any(type(content.get(name)) is not kind for name, kind in layout.items()):
            raise ValueError(f"{self._path} is no checkpoint of fairclip: choose another path.")
        return content

    def _check_kinds(self, saved: dict[str, str]) -> None:
        """Raise where the parts are not those of the file."""
        kinds = self._kinds
        different = [
            *(f"lacks `{name}`" for name in kinds if name not in saved),
            *(f"holds `{name}`, which is missing here" for name in saved if name not in kinds),
            *(
                f"holds a {saved[name]} as `{name}`, which is a {kind} here"
                for name, kind in kinds.items()
                if saved.get(name, kind) != kind
            ),
        ]
        if different:
            raise ValueError(
                f"{self._path} {', '.join(different)}: pass the parts it was saved with, or choose "
                "another path."
            )


def _raise_unsafe(states: dict[str, Any]) -> None:
    """Say which part it is whose state would need code to be run."""
    for name, state in states.items():
        torch.save(state, file := io.BytesIO())
        file.seek(0)
        if unsafe := get_unsafe_globals_in_checkpoint(file):
            raise TypeError(
                f"The state of `{name}` holds {', '.join(sorted(unsafe))}, which would not be "
                "loaded again: keep tensors, plain numbers, strings, lists and dicts in it, such "
                "as float(loss) instead of NumPy's."
            )


def _sync_folder(folder: Path) -> None:
    """Force the new name in the folder to the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
