"""The work of a comparison: the transferred LoRAs that are missing, then the pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.errors import CancelledError
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.webui.compare.form import Scene
from lib_transfer.webui.compare.kept import KeptComparisons
from lib_transfer.webui.compare.pictures import Shown, in_row
from lib_transfer.webui.compare.subject import Subject
from lib_transfer.webui.host.abilities import Pictures
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.jobs import Job

NOT_INSTALLED = "The checkpoint that it was trained on is not installed, or not known."

logger = logging.getLogger("transfer_lora")


class CompareJob(Job):
    """One comparison.

    Args:
        loras: the names of the LoRAs that are transferred first.
        before: what the page shows of earlier jobs, which stays.

    Attributes:
        pictures: the pictures that have been made.
        scene: what they have in common, once the seed is known.
    """

    def __init__(self, loras: tuple[str, ...] = (), before: Sequence[Outcome] = ()) -> None:
        super().__init__("compare", loras)
        self.outcomes = list(before)
        self.pictures: list[Shown] = []
        self.scene: Scene | None = None
        self._transfers = len(loras)

    def draws(self, pictures: Iterable[Shown]) -> None:
        """Which pictures are made after the transfers."""
        self.names = (*self.names[: self._transfers], *(picture.title for picture in pictures))

    def begin_picture(self, number: int) -> None:
        """The picture of this number is next.

        Raises:
            CancelledError: the job was stopped.
        """
        self.begin(self._transfers + number)
        self.start(1, f"the picture {self.names[self._transfers + number]}")

    @property
    def parts(self) -> int:
        """Grows whenever there is something new to show."""
        return super().parts + len(self.pictures)

    def also(self) -> tuple[str, ...]:
        """How many pictures were made."""
        count = sum(not picture.left_out for picture in self.pictures)
        return (f"{count} picture{'' if count == 1 else 's'}",) if count else ()

    def done(self) -> tuple[str, ...]:
        """The sentence to show at the end, where nothing was transferred."""
        return () if self._transfers else (f"Done: {', '.join(self.also())}.",)

    def halted(self) -> tuple[str, ...]:
        """The sentence to show when the job was stopped, where nothing was transferred."""
        return () if self._transfers else (f"Stopped. {', '.join(self.also()) or 'No picture'} made.",)


@dataclass(frozen=True)
class Comparison:
    """The pictures of a scene for every LoRA: without it, on its own checkpoint, as it is on the target, and transferred.

    Attributes:
        scene: what the pictures have in common.
        host, pictures: the program, and its ability to make pictures.
        subjects: what is compared; it transfers what is missing.
        kept: keeps the pictures of every LoRA that all were made of.
    """

    scene: Scene
    host: Host
    pictures: Pictures
    subjects: Callable[[CompareJob], Sequence[Subject]]
    kept: KeptComparisons

    def __call__(self, job: CompareJob) -> None:
        """Transfer what is missing, then make the pictures.

        Raises:
            CancelledError: the job was stopped.
        """
        subjects = {subject.lora: subject for subject in self.subjects(job)}
        job.scene = scene = self.scene.seeded()
        wanted = [pair for subject in subjects.values() for pair in _wanted(subject, scene.seed)]
        job.pictures += [shown for shown, _ in wanted if shown.left_out]
        drawn = [pair for pair in self._in_turn(wanted) if not pair[0].left_out]
        job.draws(shown for shown, _ in drawn)
        done: dict[tuple[str, Path], Shown] = {}
        for number, (shown, checkpoint) in enumerate(drawn):
            job.begin_picture(number)
            used = scene.using(self._naming(subjects[shown.lora]), shown.use)
            same = (used.prompt, checkpoint.path)
            if same not in done:
                done[same] = self._drawn(shown, used, checkpoint)
            job.cancelled()
            if job.interrupted:
                raise CancelledError
            job.pictures.append(replace(shown, jpeg=done[same].jpeg, problem=done[same].problem))
            if shown.lora not in (later.lora for later, _ in drawn[number + 1 :]):
                row = [picture for picture in job.pictures if picture.lora == shown.lora]
                self.kept.put(subjects[shown.lora], scene, in_row(row))

    def _in_turn(self, wanted: Sequence[tuple[Shown, Checkpoint]]) -> list[tuple[Shown, Checkpoint]]:
        """The pictures in the order in which they are made: the program changes its checkpoint as seldom as possible."""
        active = self.host.active().checkpoint
        paths = [checkpoint.path for _, checkpoint in wanted]
        first = [active.path] if active is not None and active.path in paths else []
        turn = {path: number for number, path in enumerate(dict.fromkeys([*first, *paths]))}
        return sorted(wanted, key=lambda pair: turn[pair[1].path])

    def _naming(self, subject: Subject) -> Callable[[str], bool]:
        """Whether a name in the prompt means the LoRA: its file name or alias, or that of the transferred LoRA."""
        paths = {path for path in (subject.original, subject.output) if path is not None}
        names = {subject.lora, *(path.stem for path in paths)}
        return lambda name: name in names or self.host.listed_adapter(name) in paths

    def _drawn(self, shown: Shown, scene: Scene, checkpoint: Checkpoint) -> Shown:
        try:
            return replace(shown, jpeg=self.pictures.draw(scene, checkpoint))
        except Exception as error:
            # This runs the program's own code and that of all other extensions.
            logger.exception("Transfer LoRA: the WebUI could not make a picture")
            return replace(shown, problem=f"The WebUI could not make this picture: {type(error).__name__}: {error}")


def _wanted(subject: Subject, seed: int) -> Iterator[tuple[Shown, Checkpoint]]:
    """The pictures of a LoRA, each with its checkpoint."""
    lora, stem, target, source = subject.lora, subject.original.stem, subject.target, subject.source
    on = f"on {target.path.stem}"
    yield Shown(lora, f"without {lora} {on}", "", seed, "without"), target
    if source is None:
        yield Shown(lora, f"with {lora} on its own checkpoint", stem, seed, "source", left_out=NOT_INSTALLED), target
    elif source.path != target.path:
        own = "picked as its source" if subject.guessed else "its own checkpoint"
        yield Shown(lora, f"with {lora} on {source.path.stem}, {own}", stem, seed, "source"), source
    yield Shown(lora, f"with {lora} as it is {on}", stem, seed, "reuse"), target
    if subject.output is not None:
        yield (
            Shown(lora, f"with {lora} transferred to {target.path.stem}", subject.output.stem, seed, "transferred"),
            target,
        )
