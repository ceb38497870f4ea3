"""The hosts, against stand-ins with the programs' signatures."""

from __future__ import annotations

import runpy
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch

from lib_transfer.errors import CancelledError
from lib_transfer.webui.app import extension
from lib_transfer.webui.host.settings import PREFIX, settings
from lib_transfer.webui.hosts.modules import listed
from lib_transfer.webui.hosts.program import Program as Host
from lib_transfer.webui.shell.jobs import Board, Job
from lib_transfer.webui.shell.record import JobRecords
from lib_transfer.webui.transfer.work import files_of
from tests import tiny
from tests.webui import models
from tests.webui.conftest import ROOT
from tests.webui.programs import Program


def test_the_active_checkpoint_is_the_selected_one(program: Program, tmp_path: Path) -> None:
    program.add(tmp_path / "first.safetensors", "1" * 64)
    second = program.add(tmp_path / "second.safetensors", "2" * 64, "abcd1234")
    program.select(second)
    active = Host().active()
    assert active.checkpoint is not None
    assert (active.checkpoint.name, active.fallback) == ("second.safetensors", False)
    assert (active.checkpoint.sha256, active.checkpoint.legacy_hash) == ("2" * 64, "abcd1234")


def test_a_chosen_checkpoint_that_is_gone_is_told(program: Program, tmp_path: Path) -> None:
    program.add(tmp_path / "first.safetensors")
    gone = program.add(tmp_path / "gone.safetensors", "3" * 64)
    program.select(gone)
    program.remove(gone)
    active = Host().active()
    assert active.checkpoint is not None
    assert (active.checkpoint.name, active.fallback) == ("first.safetensors", True)
    assert "gone.safetensors" in active.wanted


def test_without_checkpoints_there_is_no_active_one_and_nothing_is_printed(program: Program) -> None:
    assert Host().active().checkpoint is None
    assert Host().checkpoints() == {}
    assert program.printed == []


def test_a_fresh_installation_has_no_fallback(program: Program, tmp_path: Path) -> None:
    program.add(tmp_path / "only.safetensors")
    assert Host().active().fallback is False


def test_the_gpu_turn_holds_the_queue_and_gives_it_back(program: Program) -> None:
    with pytest.raises(RuntimeError), Host().gpu_turn("task(x)") as turn:
        assert program.queue.locked()
        turn.show(1, 4, 30, 100, "a LoRA")
        state = program.state
        assert (state.job_no, state.job_count, state.sampling_step, state.sampling_steps) == (1, 4, 30, 100)
        assert not turn.interrupted()
        state.interrupted, state.skipped = True, True
        assert turn.interrupted()
        assert (turn.skipped(), turn.skipped()) == (True, False)
        raise RuntimeError
    assert not program.queue.locked()
    assert program.state.log == ["begin task(x)", "end"]
    assert program.tasks == ["queued task(x)", "started task(x)", "finished task(x)"]


def test_a_job_on_the_gpu_waits_for_the_picture_and_obeys_the_webuis_interrupt(
    program: Program, tmp_path: Path
) -> None:
    job, board, reached = Job("transfer", ("one",)), Board(JobRecords(lambda: tmp_path)), threading.Event()

    def work(running: Job) -> None:
        running.begin(0)
        running.start(1000, "modules")
        reached.set()
        while not running.cancelled():
            running.step("a module")
        raise CancelledError

    with program.queue:
        board.start(job, work, lambda: Host().gpu_turn(job.id))
        assert not reached.wait(0.2)
        assert job.state == "waiting"
    assert reached.wait(5)
    program.state.interrupted = True
    with program.queue:
        assert job.state == "stopped"
    assert program.state.log[-1] == "end"


def test_a_job_on_the_cpu_leaves_the_webuis_state_alone(program: Program, tmp_path: Path) -> None:
    job, over = Job("transfer", ("one",)), threading.Event()

    def work(running: Job) -> None:
        running.begin(0)
        running.start(2, "modules")
        running.step("one")
        over.set()

    program.state.interrupted = True  # somebody stops a picture meanwhile
    Board(JobRecords(lambda: tmp_path)).start(job, work, None)
    assert over.wait(5)
    assert program.state.log == []
    assert not job.interrupted


def test_the_script_registers_a_tab_and_settings(program: Program) -> None:
    import gradio as gr

    runpy.run_path(str(ROOT / "scripts" / "transfer_lora.py"), run_name="transfer_lora.py")
    program.callbacks["ui_settings"]()
    labels = program.opts.data_labels
    assert set(labels) == {PREFIX + setting.key for setting in settings()}
    assert all(info.section == ("transfer_lora", "Transfer LoRA") for info in labels.values())
    for info in labels.values():
        info.component(label=info.label, value=info.default, **info.component_args)
    [(page, title, elem_id)] = program.callbacks["ui_tabs"]()
    assert (title, elem_id) == ("Transfer LoRA", "transfer_lora")
    assert isinstance(page, gr.Blocks)
    fields = [
        block for block in page.blocks.values() if isinstance(block, (gr.Dropdown, gr.Radio, gr.Slider, gr.Textbox))
    ]
    # A1111 would pin them in ui-config.json at the first start, and our settings would do nothing any more.
    assert all(field.do_not_save_to_config for field in fields)
    with gr.Blocks():
        key = f"setting_{PREFIX}template"
        program.callbacks["after_component"](gr.Textbox(value="{lora}", elem_id=key), elem_id=key)
        program.callbacks["after_component"](gr.Number(elem_id="another"), elem_id="another")
    # Forge makes the settings' controls once more, in no page.
    program.callbacks["after_component"](gr.Textbox(value="{lora}", elem_id=key), elem_id=key)


def test_stored_settings_that_are_unsound_fall_back(program: Program) -> None:
    program.opts.data |= {PREFIX + "energy": 7.0, PREFIX + "device": "tpu", PREFIX + "cache_size": "5"}
    host = Host()
    assert host.setting("energy") == 0.99
    assert host.setting("device") == "auto"
    assert host.setting("cache_size") == 5


def test_files_written_are_listed_again(program: Program) -> None:
    Host().adapters_changed()
    assert program.listed == 1


def test_a_target_that_is_gone_is_told_in_the_tab(program: Program, tmp_path: Path) -> None:
    models.checkpoints(tmp_path / "m")
    first = tmp_path / "m" / "Stable-diffusion" / models.BASE
    program.add(first)
    gone = program.add(tmp_path / "gone.safetensors")
    program.select(gone)
    program.remove(gone)
    choice = {"adapters": [], "target": "Active checkpoint", "source": None, "method": "Rotation", "question": "1"}
    said = extension.events().made().transfer.looked(choice)["target_line"]
    assert f"gone.safetensors is gone, so the WebUI uses {models.BASE} instead." in said


def test_the_tab_takes_little_of_the_start(tmp_path: Path) -> None:
    """In a process that has torch and gradio, as the WebUI has when it runs scripts; prints what the tab adds."""
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        import gradio, pytest, safetensors.torch, torch
        from tests.webui.programs import Program
        heavy = {"matplotlib", "distributed", "gguf", "diffusers", "transformers", "peft"} - set(sys.modules)
        with pytest.MonkeyPatch.context() as patch:
            program = Program(Path(sys.argv[1]) / "p", patch, forge=False)
            began = time.process_time()
            from lib_transfer.webui.app import extension
            extension.add_settings()
            extension.tabs()
            took = time.process_time() - began
        print(1000 * took, sorted(heavy & set(sys.modules)))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    milliseconds, rest = done.stdout.strip().split(" ", 1)
    print(f"\nthe tab adds {float(milliseconds):.0f} ms")
    assert rest == "[]"


def test_a_stop_while_the_output_is_written_waits_for_it() -> None:
    job = Job("transfer", ("one",))
    job.go()
    job.begin(0)
    job.publishing()
    job.interrupt()
    assert job.state == "stopping"
    job.finish("done")
    assert job.state == "stopped"


def test_nothing_begins_to_be_written_after_a_stop() -> None:
    job = Job("transfer", ("one",))
    job.go()
    job.begin(0)
    job.interrupt()
    assert job.state == "stopped"
    with pytest.raises(CancelledError):
        job.publishing()


def test_forges_additional_modules_are_the_text_encoders_that_lie_beside(program: Program, tmp_path: Path) -> None:
    """A VAE among them plays no part; and A1111, which has no such option, has none."""
    host = Host()
    unet, text = "model.diffusion_model.", "conditioner.embedders.0.transformer."
    weights = tiny.weights("sdxl", width=8)
    beside = {
        "vae": {"decoder.conv_in.weight": torch.zeros(4, 4, 3, 3)},
        "clip_l": {key.removeprefix(text): w for key, w in weights.items() if key.startswith(text)},
    }
    paths = {name: tiny.save(tmp_path / f"{name}.safetensors", tensors) for name, tensors in beside.items()}
    info = program.add(
        tiny.save(tmp_path / "unet.safetensors", {k: w for k, w in weights.items() if k.startswith(unet)})
    )
    checkpoint = host.prompting.checkpoint_of(info)
    assert files_of(host, checkpoint) == (checkpoint.path,)
    program.opts.data["forge_additional_modules"] = [str(path) for path in (*paths.values(), tmp_path / "gone")]
    assert files_of(host, checkpoint) == (checkpoint.path, paths["clip_l"])


def test_a_checkpoint_is_found_while_the_program_makes_its_list_anew(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "late.safetensors"
    path.write_bytes(b"")
    later = threading.Timer(0.3, program.add, [path])
    later.start()
    found = listed(path)
    later.join()
    assert found is program.infos[found.title]
    path.unlink()
    program.remove(found)
    assert listed(path) is None
