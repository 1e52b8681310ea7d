"""A command that runs beside the test in a process of its own, and can be killed at a chosen point.

Forked, so that it need not import anything anew.
"""

import os
import signal
import traceback


def start(work):
    """Run `work` in a child, which ends with status 0 only if it returned; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - nothing of the child may go on as a test
        traceback.print_exc()
    finally:
        os._exit(status)


def status_of(child):
    """Wait for a child; returns its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killing(function, *, on_call=1, first=False):
    """Return `function` with a kill -9 of its own process at a call, before or after its work."""
    calls = []

    def wrapped(*arguments, **keywords):
        calls.append(1)
        if first and len(calls) == on_call:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **keywords)
        if len(calls) == on_call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped
