"""The "Transfer LoRA" tab: the only part of the package that knows gradio or a WebUI.

Building the tab imports no torch code of ours; the engine is imported when a job starts or a file is looked into.
"""
