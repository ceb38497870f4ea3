"""The work of a comparison: the transferred LoRAs that are missing, then the pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lib_transfer.errors import CancelledError
from lib_transfer.webui.compare.form import Scene
from lib_transfer.webui.compare.kept import KeptComparisons, Subject
from lib_transfer.webui.compare.pictures import Shown
from lib_transfer.webui.host.abilities import Pictures
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.transfer.form import Order
from lib_transfer.webui.transfer.work import Work

logger = logging.getLogger("transfer_lora")


class CompareJob(Job):
    """One press of Compare.

    Args:
        loras: the names of the LoRAs.

    Attributes:
        pictures: the pictures that have been made.
        scene: what they have in common, once the seed is known.
    """

    def __init__(self, loras: tuple[str, ...]) -> None:
        pictures = (f"{name} {part}" for name in loras for part in ("without", "original", "transferred"))
        super().__init__("compare", (*loras, *pictures))
        self.loras = loras
        self.pictures: list[Shown] = []
        self.scene: Scene | None = None

    @property
    def parts(self) -> int:
        """Grows whenever there is something new to show."""
        return super().parts + len(self.pictures)

    def also(self) -> tuple[str, ...]:
        """How many pictures were made."""
        count = len(self.pictures)
        return (f"{count} picture{'' if count == 1 else 's'}",) if count else ()


@dataclass(frozen=True)
class Comparison:
    """Three pictures of a scene for every LoRA: without it, with the original, and with the transferred LoRA.

    Attributes:
        order: the LoRAs and what they are transferred to.
        scene: what the pictures have in common.
        host, pictures: the program, and its ability to make pictures.
        work: makes the transferred LoRAs that are missing.
        kept: keeps the pictures of every LoRA that all were made of.
    """

    order: Order
    scene: Scene
    host: Host
    pictures: Pictures
    work: Work
    kept: KeptComparisons

    def __call__(self, job: CompareJob) -> None:
        """Transfer what is missing, then make the pictures.

        Raises:
            CancelledError: the job was stopped.
        """
        self.work(job)
        job.scene = scene = self.scene.seeded()
        done: dict[str, Shown] = {}
        wanted = list(self._wanted(job, scene))
        for number, shown in enumerate(wanted, start=len(self.order.adapters)):
            job.begin(number)
            job.start(1, f"the picture {shown.title}")
            used = scene.using(self._naming(shown.lora, job), shown.use)
            if used.prompt not in done:
                done[used.prompt] = self._drawn(shown, used)
            job.cancelled()
            if job.interrupted:
                raise CancelledError
            job.pictures.append(replace(shown, jpeg=done[used.prompt].jpeg, problem=done[used.prompt].problem))
            if shown.lora not in (later.lora for later in wanted[len(job.pictures) :]):
                self._keep(shown.lora, scene, job)

    def _keep(self, lora: str, scene: Scene, job: CompareJob) -> None:
        subject = Subject(self.order.adapters[lora], self.order.target, self._transferred(job).get(lora))
        self.kept.put(subject, scene, [picture for picture in job.pictures if picture.lora == lora])

    def _wanted(self, job: Job, scene: Scene) -> Iterator[Shown]:
        transferred = self._transferred(job)
        for name, path in self.order.adapters.items():
            yield Shown(name, f"without {name}", "", scene.seed)
            yield Shown(name, f"with {name} as it is", path.stem, scene.seed)
            if name in transferred:
                title = f"with {name} transferred to {self.order.target.path.stem}"
                yield Shown(name, title, transferred[name].stem, scene.seed)

    def _naming(self, lora: str, job: Job) -> Callable[[str], bool]:
        """Whether a name in the prompt means ``lora``: its file name or alias, or that of the transferred LoRA."""
        paths = {self.order.adapters[lora], self._transferred(job).get(lora)} - {None}
        names = {lora, *(path.stem for path in paths if path is not None)}
        return lambda name: name in names or self.host.listed_adapter(name) in paths

    def _transferred(self, job: Job) -> dict[str, Path]:
        return {outcome.name: outcome.path for outcome in job.outcomes if outcome.path is not None}

    def _drawn(self, shown: Shown, scene: Scene) -> Shown:
        try:
            return replace(shown, jpeg=self.pictures.draw(scene, self.order.target))
        except Exception as error:
            # This runs the program's own code and that of all other extensions.
            logger.exception("Transfer LoRA: the WebUI could not make a picture")
            return replace(shown, problem=f"The WebUI could not make this picture: {type(error).__name__}: {error}")
