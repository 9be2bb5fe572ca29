"""The system user that the embedded Postgres runs as, and what it may reach.

Postgres refuses to run as root. Under root its programs run as another user, to whom the data belongs and who may
search the folders above data and programs, never list them. Under any other user nothing is changed.
"""

import logging
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from threadkeep.base.problems import StartupError

if sys.platform != "win32":
    import pwd

    import psutil

log = logging.getLogger(__name__)

POSTGRES, OURS, LAST = "postgres", "threadkeep", "nobody"
"""System users under root: the first that is there; ours is made where neither it nor `postgres` is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OsUser:
    """The user that Postgres runs as."""

    name: str
    uid: int
    gid: int

    @property
    def switch_to(self) -> int | None:
        """The uid that a program must change to; None where it is ours already."""
        return None if self.uid == os.geteuid() else self.uid


def choose_os_user(data: Path, programs: Path) -> OsUser:
    """We; under root the owner of the data, else of the programs (as under sudo), else a system user."""
    if os.geteuid() != 0:
        return _by_uid(os.geteuid())
    if data.exists():
        return _by_uid(data.stat().st_uid)
    if programs.stat().st_uid != 0:
        return _by_uid(programs.stat().st_uid)
    return _system_user()


def _by_uid(uid: int) -> OsUser:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise StartupError(f"Postgres needs a user with a name, and uid {uid} has none: set DATABASE_URI") from None
    return OsUser(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def _by_name(name: str) -> OsUser | None:
    try:
        return _by_uid(pwd.getpwnam(name).pw_uid)
    except KeyError:
        return None


def _system_user() -> OsUser:
    if found := _by_name(POSTGRES) or _by_name(OURS):
        return found
    if useradd := shutil.which("useradd"):
        subprocess.run([useradd, "--system", OURS], check=False, capture_output=True)  # noqa: S603 - fixed words
    if found := _by_name(OURS) or _by_name(LAST):
        return found
    raise StartupError("Postgres does not run as root, and there is no other user: set DATABASE_URI")


def grant_search(user: OsUser, *ends: Path) -> None:
    """Let `user` search `ends` and every folder above them."""
    if user.switch_to is None:
        return
    folders = {folder for end in ends for folder in (end, *end.parents)}
    shut = sorted(folder for folder in folders if not _may_search(user, folder.stat()))
    for folder in shut:
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXOTH)
    if shut:
        log.warning(
            "folders opened to search (o+x) for the embedded Postgres",
            extra={"directories": [str(folder) for folder in shut], "user": user.name},
        )


def _may_search(user: OsUser, found: os.stat_result) -> bool:
    if found.st_uid == user.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == user.gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def create_private_directory(user: OsUser, path: Path) -> None:
    """Make `path` for `user` alone; StartupError where it is there and is not."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
    else:
        if user.switch_to is not None:
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user.uid or stat.S_IMODE(found.st_mode) & 0o077:
        raise StartupError(f"{path} is not a folder of {user.name} alone: remove it")


def is_unrelated_process(pid: int, folder: Path) -> bool:
    """Whether `pid` is a living process that works in another folder, and so no Postgres on this one.

    False where it can't be seen: it is then another user's, and Postgres itself knows that it is not its own.
    """
    try:
        return not folder.samefile(psutil.Process(pid).cwd())
    except psutil.ZombieProcess:
        return True
    except (psutil.Error, OSError):
        return False
