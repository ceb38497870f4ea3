"""What happens at each event of the tab. Knows no layout: takes the values of controls, gives those of others."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.errors import TransferError
from lib_transfer.library.index import FileIndex
from lib_transfer.webui.host.host import Checkpoint, Host, files
from lib_transfer.webui.shell import controls, preview, status
from lib_transfer.webui.shell.jobs import Board, Job, Kind
from lib_transfer.webui.shell.keyed_lock import KeyedLock
from lib_transfer.webui.transfer import html as results
from lib_transfer.webui.transfer.choices import Panels
from lib_transfer.webui.transfer.form import ACTIVE, AUTOMATIC, Asked, chosen_names, method_of, order
from lib_transfer.webui.transfer.work import Work, runtime

logger = logging.getLogger("transfer_lora")


def told(work: Callable[..., str]) -> Callable[..., str]:
    """``work`` that gives HTML; an error becomes HTML too, and never a traceback in the page."""

    @functools.wraps(work)
    def guarded(*args: Any) -> str:
        try:
            return work(*args)
        except TransferError as error:
            return results.error(error.message, error.hint)
        except Exception as error:
            logger.exception("Transfer LoRA: an event failed")
            return results.error(
                f"This is an error in Transfer LoRA itself: {type(error).__name__}: {error}",
                "Please report it with the lines in the WebUI's console.",
            )

    return guarded


@dataclass(frozen=True)
class Start:
    """A job that is ready to be started; ``in_turn`` says whether it needs the program's queue for itself."""

    job: Job
    work: Callable[[Job], None]
    in_turn: bool


class Desk:
    """The tab's events. One for the whole program; what belongs to one window comes from that window."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.board = Board()
        self.once = KeyedLock()
        self.index = FileIndex(host.cache_folder())
        self.panels = Panels(host, self.index)

    # Lists.

    def opened(self, chosen: object, target: object, source: object, method: object) -> tuple[Any, ...]:
        """Lists and texts, when the tab is first looked at or refreshed."""
        self.host.rescan_checkpoints()
        names = files.adapters(self.host.adapter_folders())
        about = self._about(names, chosen, target, source, method)
        return *self._lists(names, chosen, target, source), self.target(target), *about

    def _lists(self, names: dict[str, Path], chosen: object, target: object, source: object) -> tuple[Any, Any, Any]:
        """The three lists anew: LoRAs, targets, sources. What is chosen stays chosen if it is still there."""
        lines = {name: self._line(name, path) for name, path in names.items()}
        checkpoints = list(self.host.checkpoints())
        kept = [lines[name] for name in chosen_names(chosen, names)]
        self.index.scan(names.values(), [c.path for c in self.host.checkpoints().values()])
        return (
            gr.update(choices=list(lines.values()), value=kept),
            gr.update(choices=[ACTIVE, *checkpoints], value=target if target in checkpoints else ACTIVE),
            gr.update(choices=[AUTOMATIC, *checkpoints], value=source if source in checkpoints else AUTOMATIC),
        )

    def _line(self, name: str, path: Any) -> str:
        facts = self.index.adapter(path, known_only=True)
        return files.entry(name, facts.short if facts else "")

    def from_card(self, card: object, chosen: object) -> Any:
        """The list with the LoRA of a card chosen."""
        names = files.adapters(self.host.adapter_folders())
        name = files.by_card(card, names)
        lines = {n: self._line(n, p) for n, p in names.items()}
        return gr.update(choices=list(lines.values()), value=[lines[name]] if name else chosen)

    # Texts about the choices.

    def about(self, adapters: object, target: object, source: object, method: object) -> tuple[str, str]:
        """What is known of the chosen LoRAs, and the name that the first one's output would get."""
        return self._about(files.adapters(self.host.adapter_folders()), adapters, target, source, method)

    def _about(
        self, names: dict[str, Path], adapters: object, target: object, source: object, method: object
    ) -> tuple[str, str]:
        chosen = {name: names[name] for name in chosen_names(adapters, names)}
        picked = self.host.checkpoints().get(source) if isinstance(source, str) else None
        return self._table(chosen, target, picked, method), self._output(next(iter(chosen), ""), picked, target, method)

    @told
    def _table(self, chosen: dict[str, Path], target: object, picked: Checkpoint | None, method: object) -> str:
        return self.panels.chosen(chosen, target, picked, method_of(method).needs_source)

    @told
    def _output(self, name: str, picked: Checkpoint | None, target: object, method: object) -> str:
        return preview.of_output(self.host, name, picked, target, method) if name else ""

    def chosen(self, adapters: object, target: object, source: object, method: object) -> tuple[str, str, Any]:
        """What is known of the chosen LoRAs, and the sources that can be offered for them."""
        return *self.about(adapters, target, source, method), self._sources(adapters, source)

    def looked(self, adapters: object, target: object, source: object, method: object) -> tuple[str, str, str]:
        """What is known of the target and the LoRAs, when the page is looked at or the active checkpoint changed."""
        return self.target(target), *self.about(adapters, target, source, method)

    def _sources(self, adapters: object, source: object) -> Any:
        """Sources of the architectures of the chosen LoRAs; every one where these are not known."""
        names = files.adapters(self.host.adapter_folders())
        facts = [self.index.adapter(names[name]) for name in chosen_names(adapters, names)]
        wanted = {a for f in facts if f for a in f.architectures}
        fitting = []
        for name, checkpoint in self.host.checkpoints().items():
            known = self.index.checkpoint(checkpoint.path, known_only=not wanted)
            if not wanted or known is None or known.architecture in wanted or name == source:
                fitting.append(name)
        return gr.update(choices=[AUTOMATIC, *fitting])

    @told
    def target(self, target: object) -> str:
        """What is known of the target."""
        return self.panels.target(target)

    def method(self, title: object) -> list[Any]:
        """The controls of a method."""
        try:
            return controls.visible_for(method_of(title))
        except TransferError:
            return [gr.update() for _ in controls.parameters()]

    # Jobs.

    def start(self, kind: Kind, job_id: object, *values: Any) -> tuple[Any, ...]:
        """Start a job on LoRAs; see :meth:`begin`."""

        def prepare() -> Start:
            asked_for = order(Asked(*values[:4], values=values[4:]), self.host)
            work = Work(asked_for, self.host, self.index, self.once)
            on_gpu = runtime(self.host).torch_device.type == "cuda"
            return Start(Job(kind, tuple(asked_for.adapters)), work, on_gpu)

        return self.begin(job_id, prepare)

    def begin(self, job_id: object, prepare: Callable[[], Start]) -> tuple[Any, ...]:
        """Start a job: its id, its status, and empty results. A window whose last job goes on gets that job's status."""
        running = self.board.get(job_id)
        if running is not None and running.active:
            return gr.update(), status.status(running), gr.update(), gr.update(), gr.update()
        made: list[Job] = []
        problem = self._begin(made, prepare)
        state = status.status(made[0]) if made else status.refused(problem)
        return made[0].id if made else "", state, "", gr.update(choices=[], value=None, visible=False), ""

    @told
    def _begin(self, made: list[Job], prepare: Callable[[], Start]) -> str:
        start = prepare()
        turn = functools.partial(self.host.gpu_turn, start.job.id) if start.in_turn else None
        self.board.start(start.job, start.work, turn)
        made.append(start.job)
        return ""

    def poll(self, job_id: object) -> str:
        """The status of a job; asked again and again, so it does nothing else."""
        job = self.board.get(job_id)
        return status.status(job) if job else status.IDLE

    def results(self, job_id: object, shown: object) -> tuple[Any, ...]:
        """The overview, the LoRAs whose details can be shown, and the details of the first."""
        job = self.board.get(job_id)
        outcomes = list(job.outcomes) if job else []
        names = [outcome.name for outcome in outcomes]
        if not names:
            return results.EMPTY, gr.update(choices=[], value=None, visible=False), ""
        # Details are heavy: those on the page stay as they are while further LoRAs come in.
        if shown in names:
            return self._overview(outcomes), gr.update(choices=names, visible=len(names) > 1), gr.update()
        picker = gr.update(choices=names, value=names[0], visible=len(names) > 1)
        return self._overview(outcomes), picker, self.details(job_id, names[0])

    @told
    def _overview(self, outcomes: list[Outcome]) -> str:
        return results.overview(outcomes)

    @told
    def details(self, job_id: object, name: object) -> str:
        """Everything about one LoRA of a job."""
        job = self.board.get(job_id)
        return results.details(next((o for o in (job.outcomes if job else ()) if o.name == name), None))

    def interrupt(self, job_id: object) -> str:
        """Stop a job."""
        job = self.board.get(job_id)
        if job is not None:
            job.interrupt()
        return status.status(job) if job else status.IDLE

    def skip(self, job_id: object) -> str:
        """Leave out the LoRA that a job is at."""
        job = self.board.get(job_id)
        if job is not None:
            job.skip()
        return status.status(job) if job else status.IDLE
