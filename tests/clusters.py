"""Clusters: a Postgres of chosen programs for the length of a test session, as Debian installs several beside each other."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from threadkeep.postgres import os_user
from threadkeep.postgres.embedded import Cluster


@contextmanager
def cluster_of(binaries: Path) -> Iterator[str]:
    """The URI of a new cluster, as its superuser. `binaries` is the folder of `initdb` and `pg_ctl`."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name).resolve()
        user = os_user.choose_os_user(home / "postgres", binaries)
        os_user.grant_search(user, home)
        cluster = Cluster(home=home, binaries=binaries, user=user, durable=False)
        os_user.create_private_directory(user, cluster.data)
        os_user.create_private_directory(user, cluster.socket_folder)
        options = f"-c listen_addresses= -c unix_socket_directories={cluster.socket_folder} -c fsync=off"
        run_program(
            cluster, "initdb", f"--pgdata={cluster.data}", "--username=threadkeep", "--encoding=UTF8", "--no-sync"
        )
        run_program(
            *(cluster, "pg_ctl", "start", "--wait", f"--pgdata={cluster.data}", f"--log={cluster.data}/server.log"),
            f"--options={options} -c max_connections=200",
        )
        try:
            yield cluster.uri("postgres")
        finally:
            run_program(cluster, "pg_ctl", "stop", "--wait", "--mode=immediate", f"--pgdata={cluster.data}")
            shutil.rmtree(cluster.socket_folder, ignore_errors=True)


def run_program(cluster: Cluster, *command: str) -> None:
    """Run a program of the cluster, which must be successful."""
    done = cluster.run(*command)
    assert done.returncode == 0, done.stdout
