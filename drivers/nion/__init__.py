"""Nion's instruments, through a bridge in a process and an environment of its own (docs: nion.md)."""

from .instrument import Nion

__all__ = ["Nion"]
