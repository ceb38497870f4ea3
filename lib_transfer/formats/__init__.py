"""Bytes to objects and back: checkpoints, adapters, their metadata and side files, and the crash-safe writer.

Nothing here knows what a module is: the names in a file are plain strings. No file is ever unpickled.
"""
