"""What a report says of the tensors of a file, added up: carried and named ones must be all of them."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

from lib_transfer.conversion.report import TransferReport

SENTENCE = re.compile(r"(All|(\d+) of) (\d+) tensors of the file were carried\.(?: Not carried: (.*?)\.)?(?:$|\n|<)")
ITEM = re.compile(r"(\d+) ([a-z]+)(?: \((\d+) tensors\))?")


def in_words(text: str) -> tuple[int, int, int]:
    """Tensors of the file, carried and lost ones, by the sentence in a text for people."""
    (found,) = SENTENCE.findall(text)
    file = int(found[2])
    lost = counted(found[3])
    return file, file if found[0] == "All" else int(found[1]), lost


def counted(words: str) -> int:
    """How many tensors "374 biases, 1 module (3 tensors)" is."""
    return sum(int(tensors or count) for count, _, tensors in ITEM.findall(words))


def in_facts(facts: dict[str, Any]) -> tuple[int, int, int]:
    """The same by the keys of a summary or of a row of a batch."""
    return facts["tensors"], facts["tensors_carried"], sum(loss["tensors"] for loss in facts["lost"])


def need_balance(report: TransferReport) -> None:
    """Raise unless every tensor of the file is carried, or named once with a reason, by the report alone."""
    file, carried, lost = in_facts(json.loads(json.dumps(report.summary())))
    assert file == carried + lost == len(report.file), report.accounts
    assert all(
        loss.reason and loss.example and "Nothing is known" not in loss.reason for loss in report.accounts.losses
    )
    assert in_words(report.to_text()) == (file, carried, lost)
    whole = json.loads(json.dumps(report.to_dict()))
    reached: set[str] = set(report.bundled)
    named = {key for item in whole["unread"] for key in item["tensors"]}
    for module in whole["module_reports"]:
        left = {key for item in module["left"] for key in item["tensors"]}
        if module["decision"] in ("transferred", "copied", "carried over"):
            reached |= set(module["tensors"]) - left
            named |= left
        else:
            named |= set(module["tensors"])
    assert len(reached) == carried
    assert reached | named == set(report.file)


def in_csv(text: str) -> tuple[int, int, int]:
    """The same by the only row of a table for a spreadsheet; every loss has its reason behind a colon."""
    [row] = csv.DictReader(io.StringIO(text))
    losses = row["lost"].split(" | ") if row["lost"] else []
    assert all(re.match(r"\d+ [a-z]+(?: \(\d+ tensors\))?: \S", loss) for loss in losses), losses
    return int(row["tensors"]), int(row["tensors_carried"]), sum(counted(loss.partition(":")[0]) for loss in losses)
