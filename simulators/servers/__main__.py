"""Start one of the servers: `python -m probeloop.simulators.servers merlin --help`."""

from __future__ import annotations

import sys

NAMES = ("merlin", "dectris")


def main(arguments: list[str]) -> int:
    """Run the server that the first argument names, until it is told to end."""
    if not arguments or arguments[0] not in NAMES:
        sys.stderr.write(f"usage: python -m probeloop.simulators.servers {'|'.join(NAMES)} [--help]\n")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    if arguments[0] == "merlin":
        from . import merlin as server
    else:
        from . import dectris as server  # type: ignore[no-redef]
    return int(server.main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
