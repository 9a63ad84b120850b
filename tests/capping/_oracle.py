"""The whole rule in plain Python: one group, one stratum, one layer at a time."""

import math
from collections.abc import Sequence

from fairclip.capping import NormCap

Layers = list[list[float]]  # L lists of K norms


class SlowCap:
    """The averages come from the whole history, by their definition."""

    def __init__(
        self, cap: NormCap, counts: list[int] | None, strata: list[int], n_groups: int
    ) -> None:
        self.cap = cap
        self.fixed = counts is not None
        self.counts = [0] * n_groups if counts is None else list(counts)
        self.strata = strata if cap.within == "label" else [0] * n_groups
        self.history: list[list[list[float]]] = [[] for _ in range(n_groups)]  # [k][step][layer]

    def __call__(self, norms: Layers, batch_counts: Sequence[int]) -> Layers:
        groups = range(len(self.counts))
        present = [k for k in groups if batch_counts[k] > 0]
        if not self.fixed:
            self.counts = [n + b for n, b in zip(self.counts, batch_counts, strict=True)]
        if not all(math.isfinite(layer[k]) for layer in norms for k in present):
            return [[1.0 for _ in groups] for _ in norms]
        for k in present:
            self.history[k].append([layer[k] for layer in norms])
        factors = []
        for layer in range(len(norms)):
            if self.cap.smoothing == 0:
                lengths = {k: norms[layer][k] for k in present}
            else:
                lengths = {k: self.average(k, layer) for k in groups if self.history[k]}
            row = [1.0 for _ in groups]
            for stratum in set(self.strata):
                self.cap_stratum(
                    row, lengths, [k for k in groups if self.strata[k] == stratum], present
                )
            factors.append(row)
        return factors

    def average(self, k: int, layer: int) -> float:
        b, past = self.cap.smoothing, [norms[layer] for norms in self.history[k]]
        weights = [(1 - b) * b**age for age in reversed(range(len(past)))]
        return sum(w * n for w, n in zip(weights, past, strict=True)) / (1 - b ** len(past))

    def chosen(self) -> tuple[int, ...]:
        reference = self.cap.reference
        if isinstance(reference, tuple):
            return reference
        return () if isinstance(reference, str) else (reference,)

    def label_weight(self, of_label: int) -> float:
        b = self.cap.label_balance
        labels = [
            sum(n for n, s in zip(self.counts, self.strata, strict=True) if s == stratum)
            for stratum in set(self.strata)
        ]
        total: float = sum(self.counts) / sum(n * max(n, 1) ** -b for n in labels)
        return float(max(of_label, 1) ** -b * total)

    def cap_stratum(
        self, row: list[float], lengths: dict[int, float], members: list[int], present: list[int]
    ) -> None:
        cap, n = self.cap, self.counts
        chosen = [k for k in members if k in self.chosen()]
        eligible = [k for k in members if n[k] >= cap.min_reference_rows or k in chosen]
        by_rows = chosen + sorted(set(eligible) - set(chosen), key=lambda k: (n[k], k))
        pooled = [k for k in members if k not in eligible]
        if cap.reference == "smallest_norm":
            candidates = sorted((k for k in eligible if k in lengths), key=lambda k: lengths[k])
            designated = candidates[0] if candidates else None
        else:
            candidates = [k for k in by_rows if k in lengths]
            designated = by_rows[0] if by_rows else None
        if candidates and designated is not None and lengths[candidates[0]] > 0:
            reference = candidates[0]
            limit = cap.max_ratio * lengths[reference]
            for k in members:
                if k == reference or lengths.get(k, 0.0) == 0:
                    continue
                if isinstance(cap.floor, str):
                    votes = sum(n[j] for j in pooled) if k in pooled else n[k]
                    floor = min(1.0, n[designated] / max(votes, 1))
                else:
                    floor = cap.floor
                row[k] = min(1.0, max(floor, limit / lengths[k]))
        if cap.within == "label":
            kept = sum(row[k] * n[k] for k in members)
            of_label = sum(n[k] for k in members)
            scale = of_label / kept if kept else 1.0
            if cap.label_balance and sum(n):
                scale *= self.label_weight(of_label)
            largest = max((row[k] for k in members if n[k]), default=0.0)
            scale = min(scale, cap.max_factor / (largest or 1.0))
            for k in members:
                row[k] *= scale
                if cap.smoothing == 0 and k not in present:
                    row[k] = 1.0
