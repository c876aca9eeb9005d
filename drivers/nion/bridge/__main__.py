"""Starts the bridge: options in one line of JSON on stdin, the port (or "error") in one line of JSON on stdout.

It ends with its stdin, which is whoever started it: the beam is blanked at once, and for LINGER more seconds a guard
may still look.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import threading

from .server import Server

TRIED = "5.4.2"  # of nionswift-usim
LINGER = 2.0  # [s]


def main() -> int:
    """Serve until whoever started it is gone."""
    options = json.loads(sys.stdin.readline())
    try:
        from .usim import Usim

        column = Usim(options)
        column.describe()
        server = Server(column, options["key"], options["port"])
    except (ImportError, AttributeError, TypeError) as error:
        return _fail(f"{sys.executable} has {_found()}: {type(error).__name__}: {error}")
    except OSError as error:
        return _fail(f"the bridge can't listen on port {options['port']}: {error.strerror}")
    except Exception as error:  # whatever Nion's libraries raise: one line
        return _fail(f"nionswift-usim failed to start: {type(error).__name__}: {error}")
    sys.stdout.write(json.dumps({"port": server.port}) + "\n")
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads what Nion's libraries print

    def watch() -> None:
        while sys.stdin.readline():
            pass
        column.safe()
        server.ended.wait(LINGER)
        server.ended.set()

    threading.Thread(target=watch, name="watch", daemon=True).start()
    server.ended.wait()
    server.close()
    return 0


def _found() -> str:
    try:
        return f"nionswift-usim {importlib.metadata.version('nionswift-usim')}, which can't be used (tried: {TRIED})"
    except importlib.metadata.PackageNotFoundError:
        return f"no nionswift-usim (tried: {TRIED})"


def _fail(words: str) -> int:
    sys.stdout.write(json.dumps({"error": words[:500]}) + "\n")
    return 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a thread may still be inside Nion's library
