"""The `clew` command, above all the rest: one module a command, each imported at once, what it needs when it runs.

Exit status: 0 answered, 1 nothing found, 2 wrong use, 3 the source cannot be reached.
"""

from clew.cli.command_line import main

__all__ = ["main"]
