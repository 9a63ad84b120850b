"""Arms with a cap, and the ordinary training that they are compared with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from fairclip.capping import NormCap, TargetCap
from fairclip.clipper import FairClipper
from fairclip.clipping import Norm
from fairclip.comparison._settings import Settings
from fairclip.comparison._start import Codes, Start
from fairclip.training import FairStep, TargetStep

_BALANCE = "balance"
_FLOOR = "floor"
_RATE = "rate"


@dataclass(frozen=True)
class FairArm:
    """Cap the groups' contributions, then perhaps clip at the unclipped run's median norm.

    With ``max_ratio=inf`` nothing is capped, and the norms of the groups are on record.
    """

    name: str
    cap: NormCap
    clip: bool = False
    codes: ClassVar[Codes] = "groups"

    @classmethod
    def uncapped(cls, name: str, settings: Settings, clip: bool = False) -> Self:
        """Return ordinary training."""
        # Nothing is compared with a reference there, so that any will do.
        return cls(name, replace(settings.cap(math.inf), reference="minority"), clip)

    @classmethod
    def capped(
        cls,
        name: str,
        max_ratio: float,
        settings: Settings,
        within: Literal["all", "label"],
        words: Sequence[str],
    ) -> Self:
        """Return a cap.

        The word ``clip`` adds the clip, ``norm`` sets ``preserve_norm``, and ``balance0.5`` sets
        ``label_balance``.

        Raises:
            ValueError: If there is another word, or the cap is none.
        """
        cap = settings.cap(max_ratio, within)
        for word in words:
            if word == "norm":
                cap = replace(cap, preserve_norm=True)
            elif word.startswith(_BALANCE):
                cap = replace(cap, label_balance=float(word.removeprefix(_BALANCE)))
            elif word != "clip":
                raise ValueError(f"behind a + stands clip, norm or {_BALANCE}0.5.")
        return cls(name, cap, clip="clip" in words)

    @classmethod
    def per_step(cls, name: str, max_ratio: float) -> Self:
        """Return the literal rule, without memory or floor."""
        return cls(name, NormCap.per_step(max_ratio))

    @property
    def group_blind(self) -> bool:
        """Whether no group code has a part in training."""
        return math.isinf(self.cap.max_ratio)

    @property
    def note(self) -> str:
        """What the report says of the arm."""
        clipped = " Then clipped at the median norm of the unclipped run." if self.clip else ""
        if self.group_blind:
            return f"ordinary training.{clipped}"
        of_whom = "of its label" if self.cap.within == "label" else "of all"
        when = "on average" if self.cap.smoothing else "in every batch"
        floor = "without a floor"
        if self.cap.floor:
            is_vote = isinstance(self.cap.floor, str)
            floor = f"not below {'an equal vote' if is_vote else f'{self.cap.floor:g} of its own'}"
        share = ", and each label keeps its share" if self.cap.within == "label" else ""
        if self.cap.label_balance:
            share = f", and a label's share is its rows to the power {1 - self.cap.label_balance:g}"
        length = " The update keeps its length." if self.cap.preserve_norm else ""
        return (
            f"a cap: a group's gradient is scaled down to {self.cap.max_ratio:g} times the length "
            f"of the reference's {of_whom}, {when} and {floor}{share}.{length}{clipped}"
        )

    def step(self, start: Start) -> FairStep:
        """Return the step for one run."""
        clip = Norm(start.median_norm) if self.clip else None
        return FairStep(FairClipper(start.model, cap=self.cap, clip=clip, encoder=start.encoder))


@dataclass(frozen=True)
class TargetArm:
    """Weigh rows by a cap that follows the recalls on the training batches.

    They are those of the cut predictions, or with ``soft`` those of the probabilities.
    """

    name: str
    cap: TargetCap
    soft: bool = False
    codes: ClassVar[Codes] = "groups"
    group_blind: ClassVar[bool] = False

    @classmethod
    def aimed(cls, name: str, target: str, gap: float, words: Sequence[str]) -> Self:
        """Return a cap for a target.

        The word ``soft`` observes probabilities, ``floor0.3`` sets ``floor``, and ``rate0.3``
        ``rate``.

        Raises:
            ValueError: If there is another word, or the cap is none.
        """
        cap = TargetCap(target, gap=gap)
        for word in words:
            if word.startswith(_FLOOR):
                cap = replace(cap, floor=float(word.removeprefix(_FLOOR)))
            elif word.startswith(_RATE):
                cap = replace(cap, rate=float(word.removeprefix(_RATE)))
            elif word != "soft":
                raise ValueError(f"behind a + stands soft, {_FLOOR}0.3 or {_RATE}0.3.")
        return cls(name, cap, soft="soft" in words)

    @property
    def note(self) -> str:
        """What the report says of the arm."""
        target = self.cap.target.replace("_", " ")
        by = "its probabilities" if self.soft else "its cut predictions"
        floor = self.cap.floor if isinstance(self.cap.floor, str) else f"{self.cap.floor:g}"
        return (
            f"TargetCap for {target}: rows weigh less while the recall of their group, by {by} on "
            f"the training batches, is more than {self.cap.gap:g} over the least (floor "
            f"{floor.replace('_', ' ')}, rate {self.cap.rate:g}). No gradient is measured."
        )

    def step(self, start: Start) -> TargetStep:
        """Return the step for one run."""
        clipper = FairClipper(start.model, cap=self.cap, encoder=start.encoder)
        if self.soft:
            return TargetStep(clipper, lambda outputs: outputs.squeeze(1).sigmoid())
        return TargetStep(clipper, lambda outputs: outputs.squeeze(1) >= 0)
