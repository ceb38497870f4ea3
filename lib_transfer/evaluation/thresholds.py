"""The numbers that decide, all of them read from the family of the quality benchmark (``python -m tests.benchmarks quality``)."""

from __future__ import annotations

FAR = 0.3
"""A domain gap above which gains say nothing, and no imitation is made where reuse is possible.

Above it all graded fine-tunes lost by imitation, 5 to 97 points (five cases of seed 0), and gains of 1.0 to 1.9 went with scores
down to -5.
"""

MEASURABLE = 0.02
"""The part of the source's gain that reuse has to leave for anything to be trained: less is within the error of the gain."""

REPRODUCES = 0.75
TRANSFERS = 0.25
"""From these gains on an adapter is said to reproduce the original, and to transfer in part; below, not to transfer.

Of what was said to reproduce nothing scored below 77, of what was said not to transfer nothing above 26: random LoRAs and most of
another style (seeds 0 and 1). What is said to transfer in part scores 46 to 96: a weaker target cannot gain what the source does.
"""
