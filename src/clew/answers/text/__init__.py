"""Answers as people read them, with `rich`: at most a screen. A request ID is never cut or wrapped, to be copied."""

from clew.answers.text.events import print_around, print_followed
from clew.answers.text.report import print_report
from clew.answers.text.words import console

__all__ = ["console", "print_around", "print_followed", "print_report"]
