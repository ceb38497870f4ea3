# The WebUI runs every file in this folder; all there is to know is in lib_transfer/webui.
from modules import script_callbacks, scripts

from lib_transfer.webui.app import extension
from lib_transfer.webui.prompt.script import Hooks

script_callbacks.on_ui_tabs(extension.tabs)
script_callbacks.on_ui_settings(extension.add_settings)
script_callbacks.on_ui_settings(extension.add_axes)
script_callbacks.on_after_component(extension.after_component)
script_callbacks.on_infotext_pasted(extension.infotext_pasted)


class TransferLora(Hooks, scripts.Script):
    """The WebUI registers every such class that it finds here."""

    prompts = staticmethod(extension.prompts)
