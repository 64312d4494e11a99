"""The ends and forks of a process: each end sends what has been measured, each forked child begins anew.

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
"""In seconds: how long a signal handler waits for the deliveries beyond their own deadline."""

_LONGEST_IMPORT = 5.0
_LONGEST_CALL = 1.0
"""In seconds: how long a fork waits for an import or a call that a delivery is in the middle of."""


class Lifecycle(Protocol):
    """Something that has to act when the process ends or forks."""

    @property
    def shutdown_timeout(self) -> float:
        """How long `end` may take, in seconds."""
        ...

    def end(self, *, at_exit: bool = False) -> None:
        """Send what there is, within `shutdown_timeout`; may be called again.

        `at_exit` says that `atexit` runs, and calls all others that have registered with it.
        """
        ...

    def release_held(self, timeout: float) -> bool:
        """Send what there is, held records included, within `timeout` seconds, and go on: perhaps not for long."""
        ...

    def begin_in_child(self) -> None:
        """Begin anew in a forked child."""
        ...


def register(lifecycle: Lifecycle) -> None:
    """Call `lifecycle` at the end of this process and of its forked children, and in each child after its fork."""
    _registered.add(lifecycle)
    _register_exit(lifecycle)
    _register_forks(lifecycle)
    _register_multiprocessing(lifecycle)
    handle_sigterm()
    raised_signals.watch(_send_last)
    _register_uwsgi()


def unregister(lifecycle: Lifecycle) -> None:
    """Stop calling `lifecycle`."""
    _registered.discard(lifecycle)
    at_exit = _exits.pop(lifecycle, None)
    if at_exit is not None:
        atexit.unregister(at_exit)
    if not _registered:
        _unhandle_sigterm()
        raised_signals.unwatch()


def end_all() -> None:
    """End all that is registered, each within its timeout: this process is about to end abruptly."""
    for lifecycle in _registered:
        _end(lifecycle, at_exit=False)


_registered: WeakCollection[Any] = WeakCollection()


# the interpreter's exit

_exits: weakref.WeakKeyDictionary[Any, Callable[[], None]] = weakref.WeakKeyDictionary()
_exiting = False
_terminated = False


def _register_exit(lifecycle: Lifecycle) -> None:
    reference = weakref.ref(lifecycle)

    def at_exit() -> None:
        found = reference()
        if found is not None:
            _end(found, at_exit=True)

    _exits[lifecycle] = at_exit
    atexit.register(at_exit)


def _end(lifecycle: Lifecycle, *, at_exit: bool) -> None:
    """End `lifecycle` in the calling thread, which ends the process; a SIGTERM that comes meanwhile waits."""
    forks.notice()
    with ending():
        try:
            lifecycle.end(at_exit=at_exit)
        except SystemExit:  # of a handler, or of another greenlet: what it asks for is under way
            lifecycle.end(at_exit=at_exit)
            if not at_exit:
                raise


@contextmanager
def ending() -> Generator[None]:
    """Mark the block as the last delivery: a SIGTERM that would interrupt it waits until it is done."""
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
        _end_by(signal.SIGTERM)


# forks

_newest: weakref.ref[Lifecycle] | None = None


def _register_forks(lifecycle: Lifecycle) -> None:
    global _newest
    reference = weakref.ref(lifecycle)

    def after_in_child() -> None:
        found = reference()
        if found is not None and found in _registered:
            found.begin_in_child()
            _register_multiprocessing(found)
        if reference is _newest:  # all have begun anew
            _after_fork()

    _newest = reference
    # registered after the SDK's own hooks, so that what they set in the child is ours to correct
    forks.after_in_child(after_in_child)


def _register_uwsgi(_: ModuleType | None = None) -> None:
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
        after_import("uwsgidecorators", _register_uwsgi)  # it sets a hook of its own


# the end of a child of multiprocessing

_known_to_multiprocessing: WeakCollection[Any] = WeakCollection()


def _register_multiprocessing(lifecycle: Lifecycle) -> None:
    """Have the finalizers of a `multiprocessing` child end `lifecycle`.

    The module is not imported for this: a process that is not such a child does not need it, and a child registers
    again after its fork. A child clears all finalizers when it begins to run, and then calls what is registered with
    `register_after_fork`.
    """
    util = imported("multiprocessing.util")
    if util is None:
        return
    if lifecycle not in _known_to_multiprocessing:
        _known_to_multiprocessing.add(lifecycle)
        util.register_after_fork(lifecycle, _end_with_child)
    if is_multiprocessing_child():
        _end_with_child(lifecycle)


def _end_with_child(lifecycle: Any) -> None:
    if lifecycle in _registered:
        # the lowest priority is run last: after the application's own finalizers and the children of this child
        util: Any = sys.modules["multiprocessing.util"]
        util.Finalize(None, _end, args=(lifecycle,), kwargs={"at_exit": False}, exitpriority=-1_000_000)


def is_multiprocessing_child() -> bool:
    """Tell whether `multiprocessing` has started this process, by any of its methods."""
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


def handle_sigterm() -> None:
    """Handle SIGTERM where nobody else does; to be called again where a server has removed the handlers in a worker."""
    if not _registered:
        return
    try:
        found = signal.getsignal(signal.SIGTERM)
        if found is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _on_sigterm)
    except ValueError:
        warn_once(
            "sigterm",
            "clew.configure() was not called in the main thread, the only one that can set signal handlers: what has "
            "been measured since the last export is lost when SIGTERM ends this process",
        )


def before_sigterm(act: Callable[[], None]) -> None:
    """Call `act` when SIGTERM is about to end this process, before what has been measured is sent."""
    if act not in _before_sigterm:
        _before_sigterm.append(act)


_before_sigterm: list[Callable[[], None]] = []


def _unhandle_sigterm() -> None:
    with suppress(ValueError):  # in another thread than the main one: the handler stays, and does what there was before
        if signal.getsignal(signal.SIGTERM) is _on_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Masks(threading.local):
    """The signals that a thread had blocked before it forked."""

    def __init__(self) -> None:
        self.before: set[Any] | None = None


_masks = _Masks()


def _before_fork() -> None:
    """Block SIGTERM during a fork, once the deliveries can be interrupted by it.

    In the child, the interpreter forgets the signals that it has caught and not handled yet. One that reached a child
    so early would be lost, and a pool that is terminated would wait for ever for the child's end.
    """
    _wait_for_deliveries()
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _after_fork() -> None:
    before, _masks.before = _masks.before, None
    if before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for_deliveries() -> None:
    """Wait until the threads that deliver are at a point where a fork does no harm to the child.

    A module that they are importing would stay locked and incomplete in the child. And gRPC ends a child that was
    forked during a call; the exporter holds back its calls before a fork, except one that begins while this waits.
    """
    began = time.monotonic()
    while True:
        now = time.monotonic() - began
        activities = {_activity(thread) for thread in threading.enumerate() if thread.name.startswith("clew-")}
        if not (("import" in activities and now < _LONGEST_IMPORT) or ("call" in activities and now < _LONGEST_CALL)):
            return
        time.sleep(0.001)


def _activity(thread: threading.Thread) -> Literal["import", "call"] | None:
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
    """Send what there is, then end by the signal as the process would have."""
    global _terminated
    if _exiting:
        _terminated = True  # the delivery is under way in the code that this interrupts, which dies when it is done
        return
    first = os.getpid() == 1  # of a container: the kernel spares it, so it goes on until it is killed
    _send_last(first)
    if not first:
        _end_by(number)


def _send_last(may_go_on: bool) -> None:
    """Send what there is before a signal ends the process; `may_go_on` says that perhaps it does not."""
    for act in _before_sigterm if not may_go_on else ():
        _in_thread(act, _SLACK)
    for lifecycle in _registered:
        timeout = lifecycle.shutdown_timeout
        _in_thread(partial(lifecycle.release_held, timeout) if may_go_on else lifecycle.end, timeout + _SLACK)


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


def _end_by(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
