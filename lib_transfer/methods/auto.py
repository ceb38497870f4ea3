"""Automatic: run both checkpoints, train an adapter that imitates the source with the original, and keep it or plain reuse.

What is trained, how it is judged and what it costs is in :mod:`lib_transfer.evaluation`; this is what a person can choose.
"""

from __future__ import annotations

from lib_transfer.methods import reuse
from lib_transfer.methods.declaration import LINEAR_AND_CONVOLUTION, Method, Parameter

RUNS = Parameter(
    "runs",
    "whole",
    5000,
    "the most runs of the models that it may take; a run with gradients counts as three",
    minimum=2000,
    maximum=1_000_000,
)
PROMPTS = Parameter(
    "prompts",
    "text",
    "",
    "the prompts of the pictures that it learns from, one a line, with the LoRA's trigger words in them (default: those that "
    "its metadata suggest)",
)
SIZE = Parameter(
    "size",
    "whole",
    0,
    "width and height of the pictures in pixels, a multiple of 64 (0: the size that the target was trained on)",
    minimum=0,
    maximum=2048,
)
CLIP_SKIP = Parameter(
    "clip_skip",
    "whole",
    0,
    "Clip skip for the prompts (0: what the LoRA was trained with if its metadata say so, else the usual one)",
    minimum=0,
    maximum=12,
)
SEED = Parameter("noise_seed", "whole", 0, "the random seed of all noise", minimum=0, maximum=2**32 - 1)

METHOD = Method(
    id="auto",
    title="Automatic (runs both checkpoints)",
    paper="this project; a student learns from a teacher's outputs as in Hinton et al. 2015",
    summary="Trains a LoRA on the target to predict what the source predicts with the original, on pictures that those two made, "
    "and keeps it where it does more on further pictures than plain reuse. Takes minutes to hours.",
    formula="argmin mean (e_t(D) - e_s(L))^2",
    needs=frozenset({"source weight", "target weight"}),
    kinds=LINEAR_AND_CONVOLUTION,
    parameters=(RUNS, PROMPTS, SIZE, CLIP_SKIP, SEED),
    # What it begins with, where modules correspond.
    transfer=reuse.transfer,
    runs_models=True,
)
