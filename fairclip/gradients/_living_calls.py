"""Calls that are kept for as long as a backward pass can reach them."""

import weakref
from collections import Counter

from fairclip.gradients._call import Call


class LivingCalls:
    """Forgets each call when its graph is gone, which holds it.

    Calls inside of an outermost one live as long as that one, so that they can be told apart by
    their order.
    """

    def __init__(self) -> None:
        self._living: list[weakref.ref[Call]] = []
        self._inside: list[Call] = []

    def add(self, call: Call, *, with_inside: bool) -> None:
        """Remember a call for as long as its graph lives."""
        self._living.append(weakref.ref(call))
        if with_inside and call.is_outermost:
            call.inside, self._inside = self._inside, []
        elif with_inside:
            self._inside.append(call)

    def take(self) -> list[Call]:
        """Return those that live, counted anew, each of them once."""
        calls = [call for held in self._living if (call := held()) is not None]
        self._living = []
        counts: Counter[str] = Counter()
        for call in calls:
            call.inside = []
            name = call.key[0]
            call.key = name, counts[name]
            counts[name] += 1
        return calls
