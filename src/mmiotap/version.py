"""The version, said once for the package: importlib.metadata would take a fifth of the time to start."""

VERSION = "0.1.0"
