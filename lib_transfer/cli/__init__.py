"""The command line: one file per command, ``main`` puts them together. The only place that prints."""
