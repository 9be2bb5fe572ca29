"""The failover of `make faults ARGS=failover`, without its two minutes: the files that it runs."""

import shutil
import subprocess
from pathlib import Path

import pytest

from faults import patroni
from faults.patroni import Cluster, Node
from threadkeep.postgres.os_user import OsUser


def test_the_example_files_are_those_that_the_scenario_runs(tmp_path: Path) -> None:
    """Ours: every address of the examples is replaced, so no file is tried that differs in more."""
    cluster = Cluster(
        home=tmp_path,
        user=OsUser(name="", uid=0, gid=0),
        nodes=(Node(name="pg1", home=tmp_path), Node(name="pg2", home=tmp_path)),
    )

    patroni.write_files(cluster)

    for name in ("pg1.yml", "pg2.yml", "haproxy.cfg"):
        lines = [line for line in (tmp_path / name).read_text().splitlines() if not line.lstrip().startswith("#")]
        assert [line for line in lines if "10.0.0." in line] == [], name
    assert f"data_dir: {tmp_path}/pg2" in (tmp_path / "pg2.yml").read_text()
    if haproxy := shutil.which("haproxy", path=patroni.SYSTEM_PATH):
        checked = subprocess.run(
            [haproxy, "-c", "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr


def test_a_machine_without_the_packages_skips_the_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue: skipped with a reason."""
    monkeypatch.setattr(patroni, "SYSTEM_PATH", "/nowhere")

    assert patroni.missing().startswith("patroni, etcd, haproxy")
