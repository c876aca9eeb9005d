"""The script that makes the peers' environments: once, exactly pinned; what failed is told with how to repeat it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "peers"
# stands in for python3: `-m venv DIR` makes an environment whose python "installs" a program, unless told to fail
PYTHON = """#!/bin/bash
place=$3; mkdir -p "$place/bin"; touch "$place/pyvenv.cfg"
cat >"$place/bin/python" <<'END'
#!/bin/bash
echo "$@" >>CALLS
[ ! -e BROKEN ] || { echo "no such version" >&2; exit 1; }
for name in libertem-live-mib-sim tickit; do printf '#!/bin/sh\\n' >"$(dirname "$0")/$name"; done
chmod +x "$(dirname "$0")"/*
END
chmod +x "$place/bin/python"
"""


def run(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    python = folder / "python"
    python.write_text(PYTHON.replace("CALLS", str(folder / "calls")).replace("BROKEN", str(folder / "broken")))
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "PROBELOOP_PEERS": str(folder / "peers")}
    return subprocess.run(
        ["bash", str(SCRIPT), *names], capture_output=True, text=True, env=environment, timeout=60, check=False
    )


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_it_makes_each_once_and_says_so(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert first.returncode == 0
    assert re.findall(r"\[\d/3\] (\S+):", first.stdout) == ["libertem-live", "tickit", "nion"]
    assert f"PROBELOOP_PEERS={tmp_path / 'peers'} pytest -m peers" in first.stdout
    asked = calls(tmp_path)
    assert len(asked) == 3
    assert "-c .ci/peers-tickit.txt tickit-devices==0.4.1 cbor2<6" in asked[1]
    second = run(tmp_path)
    assert second.returncode == 0
    assert second.stdout.count("is there") == 3
    assert calls(tmp_path) == asked


def test_what_failed_is_named_with_how_to_repeat_it(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    failed = run(tmp_path, "tickit", "nion")
    assert failed.returncode == 1
    assert (
        f"failed: tickit nion. See above; to try again:  PROBELOOP_PEERS={tmp_path / 'peers'} .ci/peers tickit nion"
        in failed.stderr
    )
    assert "no such version" in failed.stderr
    (tmp_path / "broken").unlink()
    assert run(tmp_path, "tickit").returncode == 0


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "peers" / "nion" / "mine.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    assert "is no environment, and is left as it is" in run(tmp_path, "nion").stderr
    assert kept.read_text() == "mine"


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    assert run(tmp_path, "merlin").returncode == 2


def test_every_environment_is_pinned_exactly() -> None:
    for name, wanted in {"libertem-live": "bitshuffle", "tickit": "cbor2", "nion": "nionswift-usim"}.items():
        pins = (ROOT / ".ci" / f"peers-{name}.txt").read_text().splitlines()
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[\w.]+", line) for line in pins), name
        assert any(line.startswith(f"{wanted}==") for line in pins)
