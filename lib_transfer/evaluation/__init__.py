"""What is found out by running both models: whether a transfer works, and how to make it work better.

:func:`verify` and :func:`evaluate` take files, :func:`compare` takes models. What makes an adapter better is in ``improvements``.
"""

from lib_transfer.evaluation.comparison import Adapters, Pair, Setup, compare
from lib_transfer.evaluation.local import verify
from lib_transfer.evaluation.movement import Choice, Match, Verdict, choose, match
from lib_transfer.evaluation.result import Evaluation
from lib_transfer.evaluation.verification import Better, Question, evaluate

__all__ = [
    "Adapters",
    "Better",
    "Choice",
    "Evaluation",
    "Match",
    "Pair",
    "Question",
    "Setup",
    "Verdict",
    "choose",
    "compare",
    "evaluate",
    "match",
    "verify",
]
