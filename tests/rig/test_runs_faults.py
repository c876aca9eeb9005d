"""Runs that can't be: one clear line for each fault with the next move, an exit code, nothing half-written."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def refused(run: Any, *words: str) -> list[str]:
    """Check that a run told these words, in lines for a person, and left nothing; return the lines."""
    lines: list[str] = run.told()
    for word in words:
        assert any(word in line for line in lines), (word, lines)
    assert list(run.records.glob("*")) == []
    run.nothing_left()
    return lines


def test_every_fault_of_a_rig_at_once_with_path_and_range(launch: Callable[..., Any], tmp_path: Path) -> None:
    rig = tmp_path / "r.toml"
    rig.write_text(
        """
schema = 1
tilt = 3
[limits]
dose = -1
[instrument]
use = "replay"
file = "no-such.h5"
pixel_size = "5 kg"
colour = 1
[plugins.haadf]
use = "annular_detector"
parameters = { inner = "-60 mrad", outr = 3 }
[plugins.sharp]
use = "annular_detektor"
[plugins.area]
use = "loop_area"
parameters = { nothing = 1 }
[plugins.share]
use = "ratio"
[plugins.fft]
use = "fourier"
input = ["camera", "haadf.intensity"]
[plan]
use = "explore"
parameters = { count = -100 }
""",
        encoding="utf-8",
    )
    lines = refused(launch("run", str(rig)))
    said = "\n".join(lines)
    for path in ("tilt", "limits.dose", "instrument.pixel_size", "instrument.colour",
                 "plugins.haadf.parameters.inner",
                 "plugins.haadf.parameters.outr", "plugins.sharp.use", "plugins.area.parameters.nothing",
                 "plugins.share.input", "plugins.fft.input",
                 "plan[0].parameters.count"):  # fmt: skip
        assert f"probeloop: {path}: " in said
    assert "did you mean annular_detector or detectors?" in said
    assert "0 <= number <= 1000" in next(line for line in lines if "haadf.parameters.inner" in line)
    assert "names 1 topic, it joins 2: signal, reference" in said
    assert "names 2 topics, a ScanTransform reads one (allowed: join them first: " in said
    assert lines[-1] == "probeloop: mend r.toml"


def rubbish(folder: Path) -> dict[str, Path]:
    """Files that are no measurement, by what is wrong with them."""
    made = {name: folder / name for name in ("missing.h5", "empty.h5", "text.h5", "other.xyz", "wrong_shape.npy",
                                             "pickled.npy", "no_scale.npy")}  # fmt: skip
    made["empty.h5"].write_bytes(b"")
    made["text.h5"].write_text("Dear Sir or Madam")
    made["other.xyz"].write_text("no microscopy")
    np.save(made["wrong_shape.npy"], np.zeros(7))
    np.save(made["pickled.npy"], np.array([{}], object), allow_pickle=True)
    np.save(made["no_scale.npy"], np.zeros((8, 8)))
    return made


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("missing.h5", "missing.h5"),
        ("empty.h5", "empty.h5"),
        ("text.h5", "text.h5"),
        ("other.xyz", "other.xyz"),
        ("wrong_shape.npy", "shape (7,)"),
        ("pickled.npy", "pickled.npy"),
        ("no_scale.npy", "pixel_size"),
    ],
)
def test_a_file_that_is_no_measurement_is_named(
    launch: Callable[..., Any], quick: str, tmp_path: Path, name: str, word: str
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    file = rubbish(folder)[name]
    size = ("--set", "instrument.pixel_size=0") if name == "no_scale.npy" else ()
    lines = refused(launch("run", quick, "--set", f"instrument.file={file}", *size), word)
    assert len(lines) == 1


def test_a_truncated_measurement_is_named(launch: Callable[..., Any], data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "spectra" / "BEPS_PTO_50x50.h5"
    if not source.exists():
        pytest.skip(f"no {source}")
    file = tmp_path / "truncated.h5"
    with source.open("rb") as whole:
        file.write_bytes(whole.read(source.stat().st_size // 2))
    assert len(refused(launch("run", "pto-beps", "--set", f"instrument.file={file}"), "truncated.h5")) == 1


def test_a_second_run_of_a_rig_is_told_of_the_first(launch: Callable[..., Any], quick: str) -> None:
    first = launch("run", quick)
    first.until_frames("scan", 1)
    second = launch("run", quick, name=first.name)
    (line,) = second.told()
    assert "runs already" in line
    assert str(first.popen.pid) in line
    assert list(first.records.glob("*")) == [first.folder]
    assert first.popen.poll() is None


def test_a_window_where_there_is_no_screen(launch: Callable[..., Any], quick: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "probeloop.cli", "gui"], env=environment, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "no screen" in done.stderr
    assert "--headless" in done.stderr
    assert "Traceback" not in done.stderr


def small_mounts() -> bool:
    """True where a small file system can be mounted for one process alone."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not small_mounts(), reason="only root may mount a small file system for one run")


def mounted(folder: str, size: str) -> tuple[str, ...]:
    """Return what a command is begun with so that `folder` is a file system of `size` for it."""
    return ("unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs {folder} && exec "$@"', "sh")


@needs_mounts
def test_too_little_shared_memory_is_one_line_with_the_size(launch: Callable[..., Any], quick: str) -> None:
    run = launch("run", quick, prefix=mounted("/dev/shm", "1m"))
    lines = run.told()
    assert len(lines) == 1
    assert "shared memory" in lines[0]
    assert "MiB" in lines[0]
    assert list(run.records.glob("*")) == []


@needs_mounts
@pytest.mark.parametrize("size", ["16k", "300k"], ids=["at the start", "in mid-scan"])
def test_a_full_disk_is_told(launch: Callable[..., Any], quick: str, tmp_path: Path, size: str) -> None:
    (tmp_path / "sessions").mkdir()
    run = launch(
        "run", quick, "--set", 'instrument.pace="unlimited"', prefix=mounted(str(tmp_path / "sessions"), size)
    )
    code = run.wait()
    assert code not in (0, None)
    assert "Traceback" not in run.out + run.err
    said = run.out + run.err
    assert "full" in said or "space" in said
