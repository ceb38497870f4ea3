"""The frame of the page: the tab, jobs and their status, controls, the standalone server."""
