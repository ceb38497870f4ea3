# The WebUI runs every file in this folder; all there is to know is in lib_transfer/webui.
from modules import script_callbacks

from lib_transfer.webui import extension

script_callbacks.on_ui_tabs(extension.tabs)
script_callbacks.on_ui_settings(extension.add_settings)
script_callbacks.on_after_component(extension.after_component)
