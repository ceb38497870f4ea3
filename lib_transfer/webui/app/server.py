"""The standalone server: the same tab in plain gradio, without a WebUI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Set before gradio is imported, which would otherwise report the start to its makers.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gradio as gr
import gradio.routes
from markupsafe import Markup

from lib_transfer.webui.app.late import LateEvents
from lib_transfer.webui.app.settings_page import folder_check, housekeeping, name_preview
from lib_transfer.webui.app.tab import ELEM_ID, TITLE, tab
from lib_transfer.webui.host.settings import FOLDERS, NOT_SET, PREFIX, settings
from lib_transfer.webui.hosts.standalone import Standalone
from lib_transfer.webui.shell.controls import setting_control
from lib_transfer.webui.shell.form import Form, FormValues
from lib_transfer.webui.shell.gradio_compat import blocks
from lib_transfer.webui.shell.html import guarded, note, render

ROOT = Path(__file__).resolve().parents[3]


def app(host: Standalone) -> gr.Blocks:
    """The page: a list of checkpoints where a WebUI has its own, the tab, and the settings."""
    events = LateEvents(host)
    # Built first, as WebUIs do: a page that is built inside another becomes part of it at once.
    transfer = tab(events)
    # Fonts of the system, because loading fonts from the internet would report every visit to others.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    with blocks(title=TITLE, theme=theme) as page:
        checkpoint = gr.Dropdown(
            label="Stable Diffusion checkpoint",
            choices=list(host.checkpoints()),
            value=host.active().wanted or None,
            elem_id="setting_sd_model_checkpoint",
        )
        form = Form(host, "page_")
        form.put("checkpoint", checkpoint)
        form.on(checkpoint.change, lambda values: host.choose(values["checkpoint"]), ["checkpoint"], [])
        with gr.Tabs(elem_id="tabs"):
            with gr.TabItem(TITLE, id=ELEM_ID, elem_id=f"tab_{ELEM_ID}"):
                transfer.render()
            with gr.TabItem("Settings", id="settings", elem_id="tab_settings"):
                _settings_page(host)
                housekeeping(host, events.of("housekeeping"))
    return page


def _settings_page(host: Standalone) -> None:
    form = Form(host, "settings_")
    for setting in settings():
        control = setting_control(setting, host.setting(setting.key), f"setting_{PREFIX}{setting.key}")
        form.put(setting.key, control)
        if setting.key == "template":
            name_preview(host, control)
        if setting.key in FOLDERS:
            folder_check(host, control, setting.key)
    apply = gr.Button(value="Apply settings", variant="primary", elem_id="settings_submit")
    form.put("result", gr.HTML("", elem_id="settings_result"))

    def store(values: FormValues) -> dict[str, Any]:
        return {"result": guarded(_stored)(host, values)}

    form.on(apply.click, store, [setting.key for setting in settings()], ["result"])


def _stored(host: Standalone, values: FormValues) -> Markup:
    given = {key: None if value == NOT_SET else value for key, value in values.items()}
    # gradio sends an empty number as 0, which is no rank.
    given["subspace_rank"] = given["subspace_rank"] or None
    problems = {key: problem for key in FOLDERS if (problem := host.problem_of(key, given[key] or ""))}
    # Where a folder cannot be used, the one before stays.
    given |= {key: host.stored(key) for key in problems}
    host.store(given)
    refused = [s.label for s in settings() if given[s.key] is not None and host.setting(s.key) != given[s.key]]
    said = "The settings were stored." + (f" Not valid, so not used: {', '.join(refused)}." if refused else "")
    return note(said, *problems.values())


def serve(models_dir: Path, *, cache_folder: Path | None, port: int | None, browser: bool) -> None:
    """Serve the page on this machine until it is interrupted.

    Raises:
        RequestError: ``models_dir`` is not laid out like a WebUI's.
    """
    page = app(Standalone(models_dir, cache_folder))
    _inject_like_a_webui()
    page.queue().launch(
        server_name="127.0.0.1",
        server_port=port,
        inbrowser=browser,
        share=False,
        show_error=True,
        allowed_paths=[str(ROOT / "javascript"), str(ROOT / "style.css")],
    )


def _inject_like_a_webui() -> None:
    """Put our JavaScript and style into every page, where a WebUI puts those of an extension.

    gradio has no way of adding a script file that works on both 3.41 and 4.40.
    """
    scripts = [_address(path) for path in sorted((ROOT / "javascript").glob("*.js"))]
    head, style = render("scripts", scripts=scripts), render("style", address=_address(ROOT / "style.css"))
    original = gradio.routes.templates.TemplateResponse

    def response(*args: Any, **options: Any) -> Any:
        made = original(*args, **options)
        made.body = made.body.replace(b"</head>", f"{head}</head>".encode()).replace(
            b"</body>", f"{style}</body>".encode()
        )
        made.init_headers()
        return made

    gradio.routes.templates.TemplateResponse = response


def _address(path: Path) -> str:
    return f"file={path}?{path.stat().st_mtime}"
