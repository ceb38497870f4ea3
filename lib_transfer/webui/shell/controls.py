"""Controls made from declarations: a method's parameters and our settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from lib_transfer import methods as registry
from lib_transfer.methods import METHODS, Method, Parameter
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.host.settings import NOT_SET, Setting, label, parameters
from lib_transfer.webui.shell.gradio_compat import control

# A slider over more than this is of no use; such numbers are typed.
_WIDEST_SLIDER = 50


def kind_of(parameter: Parameter | None) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The gradio class for a parameter (None: free text), and its options."""
    if parameter is None or parameter.kind == "rank":
        return gr.Textbox, {"max_lines": 1}
    if parameter.kind == "flag":
        return gr.Checkbox, {}
    if parameter.kind == "choice":
        choices = list(parameter.choices) if parameter.default is not None else [NOT_SET, *parameter.choices]
        return gr.Radio, {"choices": choices}
    low, high = parameter.minimum, parameter.maximum
    if parameter.kind == "number" and low is not None and high is not None and high - low <= _WIDEST_SLIDER:
        return gr.Slider, {"minimum": low, "maximum": high, "step": 0.01}
    return gr.Number, {"precision": 0} if parameter.kind == "whole" else {}


def shown(parameter: Parameter | None, value: Any) -> Any:
    """``value`` as its control shows it."""
    if parameter is not None and parameter.kind == "choice" and value is None:
        return NOT_SET
    return str(value) if parameter is not None and parameter.kind == "rank" else value


def setting_control(setting: Setting, value: Any, elem_id: str) -> Any:
    """The control of one of our settings, on the standalone server's page."""
    kind, options = kind_of(setting.parameter)
    return kind(
        label=setting.label, info=setting.help, value=shown(setting.parameter, value), elem_id=elem_id, **options
    )


def method_controls(host: Host, method: Method) -> list[Any]:
    """A control for every parameter that some method declares; those that ``method`` lacks are hidden."""
    made = []
    for parameter in parameters():
        kind, options = kind_of(parameter)
        made.append(
            control(
                kind,
                parameter.name,
                label=label(parameter),
                info=parameter.help,
                value=shown(parameter, host.setting(parameter.name)),
                visible=parameter in registry.parameters(method),
                **options,
            )
        )
    return made


def visible_for(method: Method) -> list[Any]:
    """Updates that show the controls of ``method`` and hide the rest."""
    own = registry.parameters(method)
    return [gr.update(visible=parameter in own) for parameter in parameters()]


def titles() -> list[str]:
    """Titles of the methods, the default one first."""
    return [method.title for method in METHODS]
