"""The work of a comparison: the copies that are missing, then the pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lib_transfer.errors import CancelledError
from lib_transfer.webui.compare.form import Scene
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.transfer.form import Order
from lib_transfer.webui.transfer.work import Work

logger = logging.getLogger("transfer_lora")


@dataclass(frozen=True)
class Shown:
    """One picture of a comparison.

    Attributes:
        lora: the LoRA that it is about.
        title: what is in it.
        use: the name that stands in the prompt in that LoRA's place; "" where it is left out.
        seed: it was made with.
        jpeg: the picture, as a file.
        problem: why there is none.
    """

    lora: str
    title: str
    use: str
    seed: int
    jpeg: bytes = b""
    problem: str = ""


def steps(names: tuple[str, ...]) -> tuple[str, ...]:
    """What a comparison goes through, for its progress: each LoRA, then each picture."""
    return (*names, *(f"{name} {part}" for name in names for part in ("without", "original", "copy")))


@dataclass(frozen=True)
class Comparison:
    """Three pictures of a scene for every LoRA of an order: without it, with it, and with its copy."""

    order: Order
    scene: Scene
    host: Host
    work: Work

    def __call__(self, job: Job) -> None:
        """Make the copies that are missing, then the pictures.

        Raises:
            CancelledError: the job was stopped.
        """
        self.work(job)
        scene = self.scene.drawn()
        done: dict[str, Shown] = {}
        for number, shown in enumerate(self._wanted(job, scene), start=len(self.order.adapters)):
            job.begin(number)
            job.start(1, f"the picture {shown.title}")
            prompt = scene.prompt_with(self._naming(shown.lora, job), shown.use)
            if prompt not in done:
                done[prompt] = self._drawn(shown, scene, prompt)
            job.cancelled()
            if job.interrupted:
                raise CancelledError
            job.pictures.append(replace(shown, jpeg=done[prompt].jpeg, problem=done[prompt].problem))

    def _wanted(self, job: Job, scene: Scene) -> Iterator[Shown]:
        copies = self._copies(job)
        for name, path in self.order.adapters.items():
            yield Shown(name, f"without {name}", "", scene.seed)
            yield Shown(name, f"with {name} as it is", path.stem, scene.seed)
            if name in copies:
                yield Shown(name, f"with its copy for {self.order.target.path.stem}", copies[name].stem, scene.seed)

    def _naming(self, lora: str, job: Job) -> Callable[[str], bool]:
        """Whether a name in the prompt means ``lora``: by file name or alias, or by that of its copy."""
        paths = {self.order.adapters[lora], self._copies(job).get(lora)}
        names = {lora, *(path.stem for path in paths if path is not None)}
        return lambda name: name in names or self.host.listed_adapter(name) in paths - {None}

    def _copies(self, job: Job) -> dict[str, Path]:
        return {outcome.name: outcome.path for outcome in job.outcomes if outcome.path is not None}

    def _drawn(self, shown: Shown, scene: Scene, prompt: str) -> Shown:
        try:
            return replace(shown, jpeg=self.host.draw(scene, prompt, self.order.target))
        except Exception as error:
            # The program's own code, and that of every other extension in it.
            logger.exception("Transfer LoRA: the WebUI could not make a picture")
            return replace(shown, problem=f"The WebUI could not make this picture: {type(error).__name__}: {error}")
