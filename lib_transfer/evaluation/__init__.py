"""What is found out by running both models: whether a transfer works, and how to make it work better.

:func:`verify` and :func:`evaluate` take files, :func:`compare` takes models; :func:`imitate` trains a better adapter.
"""

from lib_transfer.evaluation.choice import Choice, choose
from lib_transfer.evaluation.comparison import Adapters, Pair, Setup, compare
from lib_transfer.evaluation.gain import Gain, Verdict
from lib_transfer.evaluation.imitation import Imitation, imitate
from lib_transfer.evaluation.local import verify
from lib_transfer.evaluation.result import Evaluation
from lib_transfer.evaluation.runs import Amounts
from lib_transfer.evaluation.verification import Question, Training, evaluate

__all__ = [
    "Adapters",
    "Amounts",
    "Choice",
    "Evaluation",
    "Gain",
    "Imitation",
    "Pair",
    "Question",
    "Setup",
    "Training",
    "Verdict",
    "choose",
    "compare",
    "evaluate",
    "imitate",
    "verify",
]
