"""Writes src/probeloop/api.pyi from the table in api.py: `python tests/house/api_stub.py`.

Type checkers can't see through a lazy module; the stub tells them what each name is. A test holds the two together.
"""

from pathlib import Path

from probeloop import api

STUB = Path(__file__).parents[2] / "src" / "probeloop" / "api.pyi"


def rendered() -> str:
    """Return the stub's text."""
    lines = ['"""Types of the one door for drop-ins; written by tests/house/api_stub.py."""', ""]
    for module, names in sorted(api._WHERE.items()):
        lines.append(f"from .{module} import (")
        lines += [f"    {name} as {name}," for name in sorted(names.split())]
        lines.append(")")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    STUB.write_text(rendered(), encoding="utf-8")
