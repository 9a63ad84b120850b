"""One training step: the stages in order.

`FairClipper` takes a model and the groups (B,) of a batch, measures the contribution of each group
to the gradient, caps and clips, and leaves the final gradient in ``.grad``: exactly, around the
user's forward and backward pass (``watch``), or by the norms of earlier steps (``weigh``). With a
`TargetCap` the factors come from how rows (B,) were predicted (``observe``).
"""

from fairclip.clipper._clipper import FairClipper

__all__ = ["FairClipper"]
