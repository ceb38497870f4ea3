"""What is found out by running both models: whether a transfer works, and how to make it work better."""

from lib_transfer.evaluation.choice import Choice, choose
from lib_transfer.evaluation.groups import groups
from lib_transfer.evaluation.movement import Match, Verdict, match
from lib_transfer.evaluation.study import Plan, Study, study

__all__ = ["Choice", "Match", "Plan", "Study", "Verdict", "choose", "groups", "match", "study"]
