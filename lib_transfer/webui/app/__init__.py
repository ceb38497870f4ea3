"""The page as a whole: the tab made of its views, the extension in a WebUI, the standalone server."""
