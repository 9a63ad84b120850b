"""What the trace of one run says as a whole."""

from dataclasses import dataclass, field

from fairclip.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """Summary of one trace; as it stands, that of an arm without one.

    Attributes:
        by_group: One record for each group: its name; the means of its norm, of its factor (over
            the layers too) and of its share of the update, over the steps in which it was
            present; the share of the steps in which it was capped, and in which it was absent.
        cap_active: Share of the steps in which a cap changed a contribution.
        clip_active: Share of the steps in which the clip changed the gradient.
        median_norm: Of the gradients before the clip.
    """

    by_group: list[dict[str, float | str]] = field(default_factory=list)
    cap_active: float = float("nan")
    clip_active: float = float("nan")
    median_norm: float = float("nan")

    @classmethod
    def of(cls, trace: Trace) -> "Telemetry":
        """Reduce a trace to its means."""
        frame, acted = trace.to_frame(), trace.acted()
        by_group: list[dict[str, float | str]] = []
        for name in trace.names:
            seen = frame[frame[f"n[{name}]"] > 0]
            columns = map(str, seen.columns)
            factors = [c for c in columns if c.startswith("factor[") and c.endswith(f"[{name}]")]
            by_group.append(
                {
                    "group": name,
                    "norm": float(seen[f"norm[{name}]"].mean()),
                    "factor": float(seen[factors].to_numpy().mean()),
                    "share": float(seen[f"share[{name}]"].mean()),
                    "capped": acted["cap_by_group"][name],
                    "absent": acted["absent_by_group"][name],
                }
            )
        return cls(
            by_group=by_group,
            cap_active=acted["cap"],
            clip_active=acted["clip"],
            median_norm=float(frame["norm_capped"].median()),
        )
