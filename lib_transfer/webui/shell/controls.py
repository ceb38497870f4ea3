"""Controls made from declarations: a method's parameters and our settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from lib_transfer import methods
from lib_transfer.methods import METHODS, Method, Parameter
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.host.settings import NOT_SET, Setting, help_of, label, parameters
from lib_transfer.webui.shell.form import Form

# A slider over a wider range is too coarse; such numbers are typed.
_WIDEST_SLIDER = 50


def kind_of(parameter: Parameter | None) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The gradio class for a parameter (None: free text), and its options."""
    if parameter is None or parameter.kind == "rank":
        return gr.Textbox, {"max_lines": 1}
    if parameter.kind == "text":
        return gr.Textbox, {"lines": 2}
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
    """The form in which the control shows ``value``."""
    if parameter is not None and parameter.kind == "choice" and value is None:
        return NOT_SET
    return str(value) if parameter is not None and parameter.kind == "rank" else value


def setting_control(setting: Setting, value: Any, elem_id: str) -> Any:
    """The control of one of our settings on the standalone server's page."""
    kind, options = kind_of(setting.parameter)
    return kind(
        label=setting.label, info=setting.help, value=shown(setting.parameter, value), elem_id=elem_id, **options
    )


def method_names() -> tuple[str, ...]:
    """The names of the controls for the parameters of all methods."""
    return tuple(parameter.name for parameter in parameters())


def method_controls(form: Form, host: Host, method: Method) -> None:
    """A control for every parameter that some method declares; those that ``method`` lacks are hidden."""
    for parameter in parameters():
        kind, options = kind_of(parameter)
        form.add(
            kind,
            parameter.name,
            label=label(parameter),
            info=help_of(parameter),
            value=shown(parameter, host.setting(parameter.name)),
            visible=parameter in methods.parameters(method),
            **options,
        )


def visible_for(method: Method) -> dict[str, Any]:
    """Updates that show the controls of ``method`` and hide the rest."""
    own = methods.parameters(method)
    return {parameter.name: gr.update(visible=parameter in own) for parameter in parameters()}


def titles() -> list[str]:
    """The titles of the methods."""
    return [method.title for method in METHODS]
