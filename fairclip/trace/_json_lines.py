"""Numbers as lines of JSON, in a file that outlives a process that is killed."""

import json
import math
from pathlib import Path
from typing import Self

_START = b'{"step": '


class JsonLines:
    """Write each step as a line ``{"step": 50, "n[0]": 12, ...}`` at the end of a file.

    A line is in the file when the call returns. Where a process was killed while it wrote one, the
    next that opens the file cuts off the half; after a power cut the end may be of another kind,
    which is refused. A run that goes on from an earlier checkpoint writes
    the steps since then once more; the later lines count. A number that is not finite is ``null``:
    JSON has none.

    Args:
        path: The file; it is made if there is none.

    Raises:
        ValueError: If the file ends in something else than such a line; it is left as it is.

    Example:
        >>> import fairclip, pandas as pd, torch
        >>> from fairclip.trace import JsonLines
        >>> model = torch.nn.Linear(3, 1)
        >>> clipper = fairclip.FairClipper(model, group_counts=[60, 40])
        >>> with JsonLines("steps.jsonl") as lines:
        ...     handle = clipper.trace.log_to(lines, every=2)
        ...     for _ in range(4):
        ...         with clipper.watch([0, 0, 0, 1]):
        ...             model(torch.randn(4, 3)).square().mean().backward()
        ...         record = clipper.clip_grad_()
        ...         model.zero_grad()
        ...     handle.remove()
        >>> pd.read_json("steps.jsonl", lines=True)[["step", "n[0]", "n[1]"]]
           step  n[0]  n[1]
        0     0     3     1
        1     2     3     1
    """

    def __init__(self, path: str | Path) -> None:
        self._file = Path(path).open("a+b")  # noqa: SIM115 - kept open
        try:
            self._mend()
        except ValueError:
            self.close()
            raise

    def __call__(self, numbers: dict[str, float], step: int) -> None:
        """Write a line."""
        finite = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        line = json.dumps({"step": step, **finite}, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mend(self) -> None:
        """Cut off a last line that is not whole."""
        self._file.seek(0)
        end, last = 0, b""
        for last in self._file:
            end += len(last)
        if not (last.startswith(_START) or _START.startswith(last)):
            raise ValueError(f"`path` must hold lines of JSON, got {self._file.name}.")
        if not last.endswith(b"\n"):
            self._file.truncate(end - len(last))
