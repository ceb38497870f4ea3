"""The standalone server: the very same tab in plain gradio, without a WebUI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Before gradio is imported: it would tell its makers of the start otherwise.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gradio as gr

from lib_transfer.webui.app.housekeeping import Housekeeping, name_preview
from lib_transfer.webui.app.tab import ELEM_ID, TITLE, tab
from lib_transfer.webui.host.settings import NOT_SET, PREFIX, settings
from lib_transfer.webui.hosts.standalone import Standalone
from lib_transfer.webui.shell.controls import setting_control
from lib_transfer.webui.shell.gradio_compat import blocks, on
from lib_transfer.webui.transfer import html as results
from lib_transfer.webui.transfer.events import Desk, told

ROOT = Path(__file__).resolve().parents[2]


def app(host: Standalone) -> gr.Blocks:
    """The page: a list of checkpoints where a WebUI has its own, the tab, and the settings."""
    desk = Desk(host)
    # Made first, as WebUIs do: a page that is made within another is part of it already.
    transfer = tab(desk)
    # Fonts of the system: a page that asks for fonts on the internet would tell others of every visit.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    with blocks(title=TITLE, theme=theme) as page:
        checkpoint = gr.Dropdown(
            label="Stable Diffusion checkpoint",
            choices=list(host.checkpoints()),
            value=host.active().wanted or None,
            elem_id="setting_sd_model_checkpoint",
        )
        on(checkpoint.change, host.choose, [checkpoint], [])
        with gr.Tabs(elem_id="tabs"):
            with gr.TabItem(TITLE, id=ELEM_ID, elem_id=f"tab_{ELEM_ID}"):
                transfer.render()
            with gr.TabItem("Settings", id="settings", elem_id="tab_settings"):
                _settings_page(desk, host)
    return page


def _settings_page(desk: Desk, host: Standalone) -> None:
    made = []
    for setting in settings():
        control = setting_control(setting, host.setting(setting.key), f"setting_{PREFIX}{setting.key}")
        made.append(control)
        if setting.key == "template":
            name_preview(control)
    apply = gr.Button(value="Apply settings", variant="primary", elem_id="settings_submit")
    said = gr.HTML("", elem_id="settings_result")

    @told
    def store(*values: Any) -> str:
        given = {s.key: None if v == NOT_SET else v for s, v in zip(settings(), values, strict=True)}
        host.store(given)
        refused = [s.label for s in settings() if given[s.key] is not None and host.setting(s.key) != given[s.key]]
        return results.note(
            "Settings were stored." + (f" Not allowed, so left: {', '.join(refused)}." if refused else "")
        )

    on(apply.click, store, made, [said])
    Housekeeping(desk).build()


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
    """Put our javascript and style into every page, where a WebUI puts an extension's.

    Neither gradio 3.41 nor 4.40 has a way to add a script file to a page that works on both.
    """
    import gradio.routes  # noqa: PLC0415

    head = "".join(_script(path) for path in sorted((ROOT / "javascript").glob("*.js")))
    style = f'<link rel="stylesheet" href="{_address(ROOT / "style.css")}">'
    original = gradio.routes.templates.TemplateResponse

    def response(*args: Any, **options: Any) -> Any:
        made = original(*args, **options)
        made.body = made.body.replace(b"</head>", f"{head}</head>".encode()).replace(
            b"</body>", f"{style}</body>".encode()
        )
        made.init_headers()
        return made

    gradio.routes.templates.TemplateResponse = response


def _script(path: Path) -> str:
    return f'<script type="text/javascript" src="{_address(path)}"></script>'


def _address(path: Path) -> str:
    return f"file={path}?{path.stat().st_mtime}"
