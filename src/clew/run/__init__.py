"""Telemetry for programs that never import `clew`: how they start, and what is switched on in them.

`command.py` starts a program so that each Python process of it imports `startup/sitecustomize.py` first. That calls
`start.py`, as `distro.py` does for opentelemetry-instrument: it configures `clew` and has `activation.py` switch on the
integration of each framework when it is imported, and `servers.py` wrap what servers serve.
"""
