"""What ends or forks a process: each end sends what has been measured, each forked child begins anew.

- The interpreter's exit runs `atexit`: end of main, `sys.exit`, an unhandled exception, a server's graceful stop.
- The end of a `multiprocessing` child runs the finalizers of `multiprocessing.util` and no `atexit`.
- SIGTERM ends a process that has no handler for it without either.
- So does any signal that the process raises itself when the default handler is back (`raised_signals`).
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from types import ModuleType
from typing import Any, Literal, Protocol

from clew.diagnostics import warn_once
from clew.imports import after_import, imported
from clew.interpreter import forks, raised_signals
from clew.interpreter.weak import WeakCollection

_SLACK = 0.5
"""Seconds that a signal handler waits for the deliveries beyond their own deadline."""

_LONGEST_IMPORT = 5.0
_LONGEST_CALL = 1.0
"""Seconds that a fork waits for what delivers."""


class Lifecycle(Protocol):
    """What has to act when the process ends or forks."""

    @property
    def shutdown_timeout(self) -> float:
        """How long `end` may take, in seconds."""
        ...

    def end(self, *, at_exit: bool = False) -> None:
        """Send what is there, within the time there is; may be called again. `at_exit`: `atexit` runs for all."""
        ...

    def let_go(self, timeout: float) -> bool:
        """Send what is there, what is held too, within `timeout` seconds, and go on: perhaps not for long."""
        ...

    def begin_in_child(self) -> None:
        """Begin anew in a forked child."""
        ...


def attend(mortal: Lifecycle) -> None:
    """Call `mortal` at each end of this process and its forked children, and after each fork in the child."""
    _mortals.add(mortal)
    _attend_exit(mortal)
    _attend_forks(mortal)
    _attend_multiprocessing(mortal)
    attend_sigterm()
    raised_signals.attend(_send_last)
    _attend_uwsgi()


def release(mortal: Lifecycle) -> None:
    """Call `mortal` no more."""
    _mortals.discard(mortal)
    at_exit = _exits.pop(mortal, None)
    if at_exit is not None:
        atexit.unregister(at_exit)
    if not _mortals:
        _leave_sigterm()
        raised_signals.leave()


def end_all() -> None:
    """Have all that is attended send what it has, within the time there is: this process is about to end abruptly."""
    for mortal in _mortals:
        _end(mortal, at_exit=False)


_mortals: WeakCollection[Any] = WeakCollection()


# the interpreter's exit

_exits: weakref.WeakKeyDictionary[Any, Callable[[], None]] = weakref.WeakKeyDictionary()
_exiting = False
_terminated = False


def _attend_exit(mortal: Lifecycle) -> None:
    reference = weakref.ref(mortal)

    def at_exit() -> None:
        found = reference()
        if found is not None:
            _end(found, at_exit=True)

    _exits[mortal] = at_exit
    atexit.register(at_exit)


def _end(mortal: Lifecycle, *, at_exit: bool) -> None:
    """End `mortal` in the thread that ends the process; a SIGTERM that comes meanwhile waits for it."""
    forks.notice()
    with ending():
        try:
            mortal.end(at_exit=at_exit)
        except SystemExit:  # of a handler, or of another greenlet: what it asks for is under way
            mortal.end(at_exit=at_exit)
            if not at_exit:
                raise


@contextmanager
def ending() -> Generator[None]:
    """What this thread does here is a last delivery: a SIGTERM that would interrupt it waits until it is done."""
    global _exiting
    if _exiting or threading.current_thread() is not threading.main_thread():  # signals interrupt the main thread alone
        yield
        return
    _exiting = True
    try:
        yield
    finally:
        _exiting = False
    if _terminated:
        _die(signal.SIGTERM)


# forks

_newest: weakref.ref[Lifecycle] | None = None


def _attend_forks(mortal: Lifecycle) -> None:
    global _newest
    reference = weakref.ref(mortal)

    def after_in_child() -> None:
        found = reference()
        if found is not None and found in _mortals:
            found.begin_in_child()
            _attend_multiprocessing(found)
        if reference is _newest:  # all have begun anew
            _after_fork()

    _newest = reference
    # registered after the SDK's own hooks, so that what they set in the child is ours to correct
    forks.after_in_child(after_in_child)


def _attend_uwsgi(_: ModuleType | None = None) -> None:
    """Have uWSGI tell its workers, its mules and its spooler of their fork, where this is a process of it."""
    uwsgi: Any = sys.modules.get("uwsgi")  # made in C before any code runs
    if not hasattr(uwsgi, "worker_id"):
        return
    before: Any = getattr(uwsgi, "post_fork_hook", None)
    if getattr(before, "is_of_clew", False):
        return

    def post_fork_hook() -> None:
        forks.notice()
        if before is not None:
            before()

    post_fork_hook.is_of_clew = True  # type: ignore[attr-defined]
    uwsgi.post_fork_hook = post_fork_hook
    if before is None:
        after_import("uwsgidecorators", _attend_uwsgi)  # it sets a hook of its own


# the end of a child of multiprocessing

_told_multiprocessing: WeakCollection[Any] = WeakCollection()


def _attend_multiprocessing(mortal: Lifecycle) -> None:
    """Have the finalizers of a `multiprocessing` child end `mortal`.

    The module is not imported for it: a process that is no child of its kind has no need of it, and a child asks again
    after its fork. A child clears all finalizers when it begins to run, then calls what is registered for that moment.
    """
    util = imported("multiprocessing.util")
    if util is None:
        return
    if mortal not in _told_multiprocessing:
        _told_multiprocessing.add(mortal)
        util.register_after_fork(mortal, _end_with_child)
    if is_multiprocessing_child():
        _end_with_child(mortal)


def _end_with_child(mortal: Any) -> None:
    if mortal in _mortals:
        # the lowest priority is run last: after the application's own finalizers and the children of this child
        util: Any = sys.modules["multiprocessing.util"]
        util.Finalize(None, _end, args=(mortal,), kwargs={"at_exit": False}, exitpriority=-1_000_000)


def is_multiprocessing_child() -> bool:
    """Tell whether `multiprocessing` has started this process, by whatever method."""
    process = imported("multiprocessing.process")
    if process is None:
        return False
    if process.parent_process() is not None:
        return True
    # a child that is not forked imports the application's main module before it knows its parent
    return any(
        argument == "--multiprocessing-fork" or argument.startswith("from multiprocessing.forkserver import")
        for argument in sys.orig_argv
    )


# SIGTERM


def attend_sigterm() -> None:
    """Attend to SIGTERM where nobody does; again after a server has taken all handlers away in its workers."""
    if not _mortals:
        return
    try:
        found = signal.getsignal(signal.SIGTERM)
        if found is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _on_sigterm)
    except ValueError:
        warn_once(
            "sigterm",
            "clew.configure() was not called in the main thread, where alone signal handlers are set: what has been "
            "measured since the last export is lost when SIGTERM ends this process",
        )


def before_sigterm(act: Callable[[], None]) -> None:
    """Call `act` when SIGTERM is about to end this process, before what has been measured is sent."""
    if act not in _before_sigterm:
        _before_sigterm.append(act)


_before_sigterm: list[Callable[[], None]] = []


def _leave_sigterm() -> None:
    with suppress(ValueError):  # in another thread than the main one: the handler stays, and does what there was before
        if signal.getsignal(signal.SIGTERM) is _on_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Masks(threading.local):
    """What a thread that forks has blocked before."""

    def __init__(self) -> None:
        self.before: set[Any] | None = None


_masks = _Masks()


def _before_fork() -> None:
    """Block SIGTERM for the time of a fork, when what delivers has come to a pause.

    The interpreter forgets in the child the signals that it has caught and not handled yet; one that came to a child so
    early would be lost, and who waits for the child's end (a pool that is terminated) would wait for ever.
    """
    _let_deliveries_pause()
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _after_fork() -> None:
    before, _masks.before = _masks.before, None
    if before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _let_deliveries_pause() -> None:
    """Let the threads that deliver come to a point where a fork does no harm to the child.

    What they are importing would stay locked and half done in the child. And gRPC ends a child that was forked during
    a call; the exporter holds its calls back before a fork, except one that begins while this waits for its import.
    """
    began = time.monotonic()
    while True:
        now = time.monotonic() - began
        doing = {_doing(thread) for thread in threading.enumerate() if thread.name.startswith("clew-")}
        if not (("import" in doing and now < _LONGEST_IMPORT) or ("call" in doing and now < _LONGEST_CALL)):
            return
        time.sleep(0.001)


def _doing(thread: threading.Thread) -> Literal["import", "call"] | None:
    frame = None if thread.ident is None else sys._current_frames().get(thread.ident)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith("<frozen importlib."):
            return "import"
        if f"{os.sep}grpc{os.sep}" in file:
            return "call"
        frame = frame.f_back
    return None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork)


def _on_sigterm(number: int, frame: Any) -> None:
    """Send what is there, then die of the signal as the process would have."""
    global _terminated
    if _exiting:
        _terminated = True  # the delivery is under way in the code that this interrupts, which dies when it is done
        return
    first = os.getpid() == 1  # of a container: the kernel spares it, so it goes on until it is killed
    _send_last(first)
    if not first:
        _die(number)


def _send_last(may_go_on: bool) -> None:
    """Send what is there before the process dies of a signal; `may_go_on`: perhaps it does not."""
    for act in _before_sigterm if not may_go_on else ():
        _in_thread(act, _SLACK)
    for mortal in _mortals:
        timeout = mortal.shutdown_timeout
        _in_thread(partial(mortal.let_go, timeout) if may_go_on else mortal.end, timeout + _SLACK)


def _in_thread(target: Callable[[], object], timeout: float) -> None:
    """Call `target` in a thread of its own, and wait for it.

    A handler interrupts the main thread anywhere, also where it holds a lock that the delivery needs: there the thread
    waits in vain, which costs the time that there is and no more. `threading` has locks of its own, so it is not used.
    """
    over = _thread.allocate_lock()
    over.acquire()

    def run() -> None:
        try:
            target()
        finally:
            over.release()

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:  # the interpreter ends, or there are as many threads as there may be
        run()
    over.acquire(timeout=timeout)


def _die(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
