"""The numbers that decide, all of them from the quality benchmark (``python -m tests.benchmarks quality``): its tables of the
domain gap, of fine-tunes of graded distance, and of verdicts against scores."""

from __future__ import annotations

FAR = 2.0
"""A domain gap above which imitation is worse than reuse, and a gain on the source's pictures says nothing of the target's own.

Table of the domain gap: related and unrelated checkpoints of one kind of pictures have .03 to .3, fine-tunes to other pictures 3
to 30; table of graded distance: at 1.5 imitation still keeps 91 of 98, at 3 it ruins.
"""

SHARE = 0.3
"""The share of the domain gap by which the gain of an adapter has to be above that of reuse for it to be kept.

Table of graded distance: what imitation costs the target's own look grows with the gap.
"""

REPRODUCES = 0.75
TRANSFERS = 0.25
"""From this gain on an adapter is said to transfer in part; below it, not at all."""
