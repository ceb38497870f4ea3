"""The numbers that decide, all of them read from the family of the quality benchmark (``python -m tests.benchmarks quality``).

Its fine-tunes of graded distance (one seed, three styles) at these domain gaps; imitation began with reuse:

    gap                      .06   .08   .09   .17   .21   .22   .39   .41   .55   .77  1.03
    score of reuse            99    99    99    98    99    99    98    95    99    91    92
    score of imitation        99    95    96    97    84    87    67    91    60    83     3
    win in gain, of the gap   .5    .9    .7    .6    .8    .7    .8    .7    .8    .6    .7
"""

from __future__ import annotations

FAR = 0.3
"""A domain gap above which gains say nothing, and no imitation is made where reuse is possible.

Above it all graded fine-tunes lost by imitation, 5 to 89 points, and gains of 1.2 to 2.0 went with scores down to 3; below it
all of 40 adapters that were said to be reproduced scored 82 or more.
"""

MEASURABLE = 0.02
"""The part of the source's gain that reuse has to leave for anything to be trained: less is within the error of the gain."""

REPRODUCES = 0.75
TRANSFERS = 0.25
"""From this gain on an adapter is said to transfer in part; below it, not at all.

Nothing that was measured had a gain below .25. A weaker target cannot gain what the source does: between architectures, gains of
.28 to .47 went with scores of 76 to 96, so "in part" is said of what is nearly all that the target can do.
"""
