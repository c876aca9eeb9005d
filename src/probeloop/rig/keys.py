"""`probeloop keys`: this host's keys, and those of others that it trusts."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..bus.relay.keys import KeyRing
from ..data.errors import BusError
from .output import say

MAY = {
    "viewer": "may read the topics of this host's rigs, and STOP",
    "operator": "may read the topics of this host's rigs, and command them",
    "server": "is a host whose rigs this one connects to",
}


def keys(options: argparse.Namespace) -> int:
    """Do what `probeloop keys WHAT` asks; raises BusError, one line with the next move."""
    ring = KeyRing()
    match options.what:
        case "new":
            from ..bus.relay.sockets import new_pair

            handed = ring.new(options.name, new_pair)
            say(f"secret   {handed.with_suffix('.secret')}: stays here, only you can read it")
            say(f"public   {handed}: hand this file over; there: probeloop keys trust {handed.name} --as ROLE")
        case "trust":
            made = ring.trust(Path(options.file), options.role)
            say(f"{made.name!r} {MAY[made.role]}")
        case "revoke":
            ring.revoke(options.name)
            say(f"{options.name!r} is not trusted any more; a running relay drops it within a second")
        case _:
            return _list(ring)
    return 0


def _list(ring: KeyRing) -> int:
    """Print all keys; 1 where one can't be used as it is."""
    faults = []
    say(f"keys in {ring.folder}")
    for name in ring.own():
        try:
            say(f"own      {name:20}{ring.secret(name).public}")
        except BusError as error:
            faults.append(str(error))
    try:
        for each in ring.trusted().values():
            say(f"trusted  {each.name:20}{each.public}  {each.role}: {MAY[each.role]}")
    except BusError as error:
        faults.append(str(error))
    if not ring.own():
        say("this host has no key yet: probeloop keys new NAME")
    for fault in faults:
        say(f"refused  {fault}")
    return 1 if faults else 0
