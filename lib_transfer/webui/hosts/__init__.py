"""The programs that the tab can live in: a WebUI, or a small server of our own."""
