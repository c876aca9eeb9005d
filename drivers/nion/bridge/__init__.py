"""Nion's side of the driver: a program of its own, in an environment that has Nion's libraries and nothing of ours.

Run as `PYTHON_OF_NION -m bridge` with this folder's parent on PYTHONPATH; it imports the standard library, numpy and
`nion` alone, because those libraries are GPL-3.0-only and have dependencies of their own. `wire` says how one speaks
to it. Licence of this folder: as the rest of probeloop, GPL-3.0-or-later.
"""
