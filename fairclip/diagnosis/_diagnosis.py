"""The findings and the measurements behind them."""

from dataclasses import dataclass, field
from textwrap import indent

import pandas as pd

from fairclip.diagnosis._causes import split
from fairclip.diagnosis._finding import Finding
from fairclip.diagnosis._measurements import Measurements
from fairclip.diagnosis._steps import checks, measure
from fairclip.trace import Trace


@dataclass(frozen=True, slots=True, eq=False)
class Diagnosis:
    """What is wrong, and what was measured. Printing it explains it.

    Args:
        findings: Faults that nothing else found here explains; empty when nothing was found.
        symptoms: Further thresholds that were crossed and that may be consequences of the findings:
            diagnose again when those are mended.
        measurements: What the checks looked at.

    Example:
        >>> import torch
        >>> from fairclip.diagnosis import diagnose
        >>> batch = torch.tensor([[1.0], [2.0]] * 8), torch.zeros(16, 1)
        >>> diagnosis = diagnose(torch.nn.Linear(1, 1), batch, torch.nn.functional.mse_loss)
        >>> diagnosis.findings
        ()
    """

    findings: tuple[Finding, ...]
    symptoms: tuple[Finding, ...]
    measurements: Measurements = field(repr=False)

    @classmethod
    def of(cls, measurements: Measurements, found: list[Finding]) -> "Diagnosis":
        """Tell causes from symptoms."""
        return cls(*split(found), measurements)

    @classmethod
    def from_trace(cls, trace: Trace | pd.DataFrame) -> "Diagnosis":
        """Diagnose a run from what its steps recorded.

        Findings: gradients that grow or spike, gradients and updates that have become too small to
        change anything, a learning rate too large, updates that are large although the clipped
        gradient is small, and steps with non-finite gradients. All but the last need 20 steps with
        their columns; printing the diagnosis says what was not looked for.

        Args:
            trace: A trace, or what its ``to_frame()`` returned. Used: ``step``, ``norm_uncapped``,
                ``norm_clipped``, ``nonfinite``, ``update_norm`` and ``update_ratio``; the last two
                are there where :class:`fairclip.clipping.Update` is attached with the trace.

        Raises:
            TypeError: If it is neither.
            ValueError: If it has none of these columns.

        Example:
            >>> import pandas as pd
            >>> from fairclip.diagnosis import Diagnosis
            >>> trace = pd.DataFrame({"norm_uncapped": [1.0] * 40 + [1e5] + [1.0] * 9})
            >>> Diagnosis.from_trace(trace).findings[0].where
            'step 40'
        """
        frame = trace.to_frame() if isinstance(trace, Trace) else trace
        measurements = measure(frame)
        return cls.of(measurements, [finding for check in checks for finding in check(frame)])

    def to_frame(self) -> pd.DataFrame:
        """Return the measurements: the columns quantity, where, value and note."""
        return self.measurements.to_frame()

    def __str__(self) -> str:
        """Return a text to read."""
        n, notes = len(self.findings), self.measurements.notes
        found = f"{n} finding{'s' * (n > 1)}" if n else "Nothing was found"
        text = [f"{found} in {len(self.measurements) - len(notes):,} measurements."]
        for i, finding in enumerate(self.findings, 1):
            text += ["", f"{i}. {finding.fault}: {finding.where}", indent(_explain(finding), "   ")]
        if self.symptoms:
            text += ["", "These may follow from the above. Mend it, then diagnose again."]
            text += [f"   {s.fault}: {s.where}. {s.evidence}" for s in self.symptoms]
        if notes:
            text += ["", "Not measured:", *(f"   {note}" for note in notes)]
        return "\n".join(text)


def _explain(finding: Finding) -> str:
    return (
        f"Evidence:  {finding.evidence}\n"
        f"Threshold: {finding.threshold:.4g}, measured {finding.value:.4g}.\n"
        f"Remedy:    {finding.remedy}"
    )
