"""The questions, and their answers as objects whose `as_json` is the public interface of ``--format json``."""

from clew.local.questions.around import Around, around
from clew.local.questions.follow import Followed, follow
from clew.local.questions.report import Report, report

__all__ = ["Around", "Followed", "Report", "around", "follow", "report"]
