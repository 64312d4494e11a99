"""Answers as people read them, with `rich`: at most a screen. A request ID is never cut or wrapped, to be copied."""

from clew.answers.text.around import print_around
from clew.answers.text.follow import print_followed
from clew.answers.text.report import print_report
from clew.answers.text.terminal import console

__all__ = ["console", "print_around", "print_followed", "print_report"]
