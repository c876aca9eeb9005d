"""Errors: one line, with the next move."""

from __future__ import annotations

import inspect

import pytest

from probeloop.data import errors
from probeloop.data.errors import ProbeloopError, Problem, RefusedError, SettingsError

ALL = [thing for _, thing in inspect.getmembers(errors, inspect.isclass) if issubclass(thing, Exception)]


def test_every_error_is_in_the_tree_at_the_top_of_the_file() -> None:
    assert all(issubclass(each, ProbeloopError) for each in ALL)
    assert [each.__name__ for each in ALL if each.__name__ not in (errors.__doc__ or "")] == []


def test_an_error_says_what_happened_and_what_to_do() -> None:
    error = ProbeloopError("no topic 'haadf'", "see probeloop list")
    assert str(error) == "no topic 'haadf'. see probeloop list"
    assert str(ProbeloopError("no topic")) == "no topic"


def test_faults_are_told_together() -> None:
    error = SettingsError([Problem("a.b", "missing", "text"), Problem("c", "unknown")])
    assert str(error) == "a.b: missing (allowed: text); c: unknown"
    assert len(error.problems) == 2


def test_a_refusal_names_its_limit_and_what_is_allowed() -> None:
    error = RefusedError("dose", "limits.dose", "3 e more")
    assert (error.reason, error.limit, error.allowed) == ("dose", "limits.dose", "3 e more")
    assert str(error) == "refused: dose. allowed: 3 e more"
    with pytest.raises(ProbeloopError):
        raise error
