"""Loggers of a trace: callables that are given a step's numbers."""

from collections.abc import Callable
from typing import Self

Log = Callable[[dict[str, float], int], object]


class LogHandle:
    """A logger of a trace; also a context manager that removes it.

    Args:
        log: Called as ``log(numbers, step)``.
        every: Steps from one call to the next.
        latest: Returns the numbers of the last step.
        others: The trace's loggers, which it joins.
    """

    def __init__(
        self,
        log: Log,
        every: int,
        latest: Callable[[], dict[str, float]],
        others: "list[LogHandle]",
    ) -> None:
        if not callable(log):
            raise TypeError(
                f"`log` must be called as log(numbers, step), got {type(log).__name__}: wrap it, "
                "as `fairclip.integrations.tensorboard.Scalars(writer)` does."
            )
        if not isinstance(every, int) or every < 1 or every is True:
            raise ValueError(f"`every` must be a number of steps, at least 1, got {every!r}.")
        self._log = log
        self._every = every
        self._latest = latest
        self._others = others
        self._due: int | None = None
        others.append(self)

    def begin(self, step: int) -> None:
        """Note which step is the last one now."""
        self._due = step if step % self._every == 0 else None

    def finish(self) -> None:
        """Log the last step, if it is due and was not logged yet."""
        if self._due is not None:
            step, self._due = self._due, None
            self._log(self._latest(), step)

    def remove(self) -> None:
        """Log the last step, if it is due, and no other."""
        if self in self._others:
            self._others.remove(self)
            self.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
