"""The units for systemd: its own tools read them and judge their hardening, and they fit the server."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from threadkeep.cli import main
from threadkeep.settings import Settings, environment_names

UNITS = sorted((Path(__file__).parents[2] / "deploy" / "systemd").glob("*.service"))
PROGRAM = "/opt/threadkeep/bin/threadkeep"
EXPOSURE = "20"
"""The highest exposure level that is accepted, in tenths: 2.0 of 10. A unit without hardening has 9.6."""
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def _values(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


def _installed(folder: Path) -> list[Path]:
    """The units with a program that is there, and an instance of each template."""
    placed: list[Path] = []
    for unit in UNITS:
        path = folder / unit.name.replace("@.", "@2024.")
        path.write_text(unit.read_text().replace(PROGRAM, "/bin/true"))
        placed.append(path)
    return placed


def _analyze(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"}
    command = ["systemd-analyze", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


@needs_systemd
def test_systemd_reads_the_units_without_a_complaint(tmp_path: Path) -> None:
    """Issue: `systemd-analyze verify`."""
    _analyze(tmp_path, "verify", "--man=no", *(str(unit) for unit in _installed(tmp_path)))


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_are_hardened(tmp_path: Path, unit: Path) -> None:
    """Issue: `systemd-analyze security`."""
    path = tmp_path / unit.name
    path.write_text(unit.read_text())
    _analyze(tmp_path, "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE}", str(path))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_fit_the_server(unit: Path) -> None:
    """Ours: commands and variables that the server has, and more time to stop than runs are given."""
    [command] = _values(unit, "ExecStart")
    variables = [word.partition("=")[0] for line in _values(unit, "Environment") for word in line.split()]
    ours = {name for name in variables if not name.startswith("PYTHON")}

    assert command.split()[0] == PROGRAM
    assert command.split()[1] in main.commands
    assert ours <= environment_names()
    for seconds in _values(unit, "TimeoutStopSec"):
        assert int(seconds) >= Settings().drain_s + 10
