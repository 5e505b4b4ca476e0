"""A console script that is loaded before its arguments are known: `python -m fedkd.ahead NAME`, standard input a pipe.

Flower's command line takes about two seconds of processor time to import before it does anything. Loaded ahead, beside
something else that takes its time, it answers at once. The arguments come as one line, a JSON list. Once the caller's
end of the pipe closes, the script ends, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from importlib.metadata import entry_points


def main() -> None:
    """Load the script, wait for its arguments, run it."""
    name = sys.argv[1]
    found = entry_points(group="console_scripts", name=name)
    if not found:
        sys.exit(f"{name} is not installed; install fedkd with pip")
    command = next(iter(found)).load()
    line = _read_line()
    if not line:
        return
    threading.Thread(target=_end_with_caller, daemon=True).start()
    sys.argv = [name, *json.loads(line)]
    sys.exit(command())


def _read_line() -> bytes:
    """The first line of standard input; byte by byte, since what follows is nobody's."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line if line.endswith(b"\n") else b""


def _end_with_caller() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1):  # not sys.stdin: its lock, held here, would keep the interpreter from ending
            pass
    os._exit(1)


if __name__ == "__main__":
    main()
