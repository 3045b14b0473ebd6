"""A warm interpreter that forks one `dsync` after the other, so that a start costs little.

It has imported all of dsync and run none of it: a child of it is a process of its own, with its own
files, locks and sockets, that a signal kills as it kills any other. One connection on its socket is
one command: a line of JSON with `argv`, `cwd`, `env`, `out`, `err` comes in; a line with the pid of
the child and, when it has ended, one with its status goes back.

It is a script of its own (`python starter.py SOCKET`) because only a process with one thread may
fork. It ends with its standard input.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

COUNTING = "TORTURE_COUNTING"
"""In the environment of a command: a file that it writes how often it passed each point to."""
STOPPED = "TORTURE_STOPPED"
"""The same: it stops itself before it begins, so that a tracer may come."""
_LATER = (".emulators", ".__main__")


def warm() -> None:
    """Import all that a run may need."""
    import dsync

    for module in pkgutil.walk_packages(dsync.__path__, "dsync."):
        if not any(part in module.name for part in _LATER):
            # What cannot be imported fails where a run needs it.
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    for name in ("duckdb", "sqlglot", "jmespath", "rich.console", "jinja2", "arro3.core"):
        importlib.import_module(name)


def main(path: str) -> None:
    """Serve until standard input ends."""
    warm()
    threads = "/proc/self/task"
    assert not os.path.isdir(threads) or len(os.listdir(threads)) == 1
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(path)
        server.listen(64)
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            ready, _, _ = select.select([server, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _watch(connection)
                os._exit(0)
            connection.close()


def _watch(connection: socket.socket) -> None:
    """Start one command, and tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection, connection.makefile("rw", encoding="utf-8") as file:
        words = json.loads(file.readline())
        pid = os.fork()
        if pid == 0:
            connection.close()
            _run(words)
        file.write(f"{pid}\n")
        file.flush()
        _, status = os.waitpid(pid, 0)
        # Who asked may have gone.
        with contextlib.suppress(OSError):
            file.write(f"{os.waitstatus_to_exitcode(status)}\n")
            file.flush()


def _run(words: dict[str, Any]) -> None:
    """Be `dsync` with these words; never returns."""
    os.chdir(words["cwd"])
    os.environ.clear()
    os.environ.update(words["env"])
    time.tzset()
    for target, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, words["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, words["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        descriptor = os.open(name, flags, 0o600)
        os.dup2(descriptor, target)
        os.close(descriptor)
    from dsync import cli, failpoints

    code, counting = 1, ""
    try:
        # Read when they are imported, which was before this environment.
        failpoints._points = failpoints._armed()
        if counting := words["env"].get(COUNTING):
            failpoints._points = dict.fromkeys(failpoints.POINTS, (sys.maxsize, ""))
        if words["env"].get(STOPPED):
            os.kill(os.getpid(), signal.SIGSTOP)
        sys.argv = ["dsync", *words["argv"]]
        code = cli.main(words["argv"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        if counting:
            Path(counting).write_text(json.dumps(failpoints._passed))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
