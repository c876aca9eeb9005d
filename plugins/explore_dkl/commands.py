"""`probeloop bench dkl`: choosing the next point, against rivals, where the truth is known and on measured loops.

`expected` is asked by `probeloop plan --dry-run --from SESSION`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .campaign import campaign
from .expected import expected


def bench(options: Mapping[str, Any]) -> dict[str, Any]:
    """Run every policy in `seeds` worlds of each family from `seed` on; `what`: one family, or "real".

    Says how far it is on standard error. `ok` when all targets that were measured are reached. Raises SettingsError
    for an unknown family, DropInError without torch.
    """
    return campaign(int(options.get("seeds") or 10), int(options.get("seed") or 0), options.get("what") or "")


__all__ = ["bench", "expected"]
