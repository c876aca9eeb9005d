"""`probeloop bench simulator`: found by its name, and, when asked for, its figures."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from probeloop.cli import main
from probeloop.rig import catalogue


def test_a_simulators_bench_is_found_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def load(name: str) -> Any:
        def bench(options: dict[str, Any]) -> dict[str, Any]:
            asked.append((name, options["seed"], options["seconds"]))
            return {"ok": name == "stem"}

        return SimpleNamespace(bench=bench)

    monkeypatch.setattr(catalogue, "load_commands", load)
    assert main(["bench", "simulator", "--json", "--seed", "3", "--seconds", "5"]) == 0
    assert main(["bench", "simulator", "--what", "spm", "--json"]) == 1
    assert main(["bench", "loop", "--json"]) == 1
    assert asked == [("stem", 3, 5.0), ("spm", 0, None), ("autofocus", 0, None)]
    assert json.loads(capsys.readouterr().out.split("\n}\n")[0] + "\n}") == {"ok": True}
    assert main(["bench", "nothing"]) == 2


@pytest.mark.bench
@pytest.mark.timeout(300)
def test_the_simulator_is_fast_and_right() -> None:
    from probeloop.simulators.stem.benchmark import run

    found = run(seed=1, seconds=20)
    assert found["fps_256_1slice"] >= 1000
    assert found["fps_256_4slices"] >= 300
    assert found["agreement_complex64"] < 1e-4
    assert found["agreement_complex128"] < 1e-6
    assert found["deterministic"]
    assert min(found["poisson_p_values"].values()) > 1e-4
    assert found["field_60nm"]["peak_mb"] <= 1000
