"""The programs that the page can run in: a WebUI, or the standalone server."""
