"""The version of the project, in one place; ``pyproject.toml`` reads it from here."""

VERSION = "0.1.0"

SCHEMA = 1
"""Version of the reports that are written as JSON."""
