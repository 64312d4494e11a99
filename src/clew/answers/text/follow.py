"""The answer to `follow`: one request as a timeline over all services."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from clew.answers.questions.follow import Followed
from clew.answers.text.events import TRACEBACK, named, print_event
from clew.answers.text.quantities import duration, local_time
from clew.answers.text.terminal import print_line, printable
from clew.answers.text.tracebacks import folded, same_exception


def print_followed(console: Console, answer: Followed) -> None:
    """Print one request as a timeline over all services; an exception's traceback once, folded."""
    assert answer.start is not None
    assert answer.end is not None
    services = sorted({event.service or "?" for event in answer.events})
    failed = any(event.failed for event in answer.events)
    console.print()
    print_line(console, Text.assemble("request ", (printable(answer.request_id), "bold cyan")))
    print_line(
        console,
        Text.assemble(
            f"{local_time(answer.start, 0)}  {duration((answer.end - answer.start) / 1e9)}  over ",
            ", ".join(printable(service) for service in services),
            *([("  failed", "bold red")] if failed else []),
        ),
    )
    console.print()
    told: set[tuple[str, ...]] = set()
    for event, name in named(answer.events, answer.several):
        traceback = str(event.attributes.get(TRACEBACK, ""))
        same = same_exception(traceback)
        repeated = bool(traceback) and same in told
        print_event(console, event, name, answer.start, Text("  (traceback above)" if repeated else "", "dim"))
        if traceback and not repeated:
            told.add(same)
            for written in folded(traceback):
                print_line(console, Text(f"{'':14}{printable(written)}", style="dim"))
