"""The "Transfer LoRA" tab: the only part of the package that knows gradio or a WebUI.

``host`` says what we need from a program, and ``hosts`` has each program's answer. ``shell`` is what the views share:
controls, jobs, status, HTML. Each view (``transfer``, ``batch``, ``compare``, ``verify``) has a layout (``view``), events, a
``form`` that checks what a person asks for, its work, and its HTML; the HTML templates are in ``templates``. ``prompt`` is for
generations. ``app`` puts everything together.
"""
