"""OS user: the system user that the embedded Postgres runs as, and its access to folders.

Postgres refuses to run as root. Under root its programs run as another user. That user owns the data and may search, but
not list, the folders above the data and the programs. Under any other user nothing is changed.
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
"""Candidates for the system user under root. `threadkeep` is created if neither it nor `postgres` exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OsUser:
    """The user that Postgres runs as."""

    name: str
    uid: int
    gid: int

    @property
    def switch_to(self) -> int | None:
        """The uid that a program must change to. None if it is already the current one."""
        return None if self.uid == os.geteuid() else self.uid


def choose_os_user(data: Path, programs: Path) -> OsUser:
    """The current user. Under root: the owner of the data, else of the programs (as with sudo), else a system user."""
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
    if user := _by_name(POSTGRES) or _by_name(OURS):
        return user
    if useradd := shutil.which("useradd"):
        subprocess.run([useradd, "--system", OURS], check=False, capture_output=True)  # noqa: S603 - fixed words
    # `useradd` may have failed, for example on a read-only file system. Then `nobody` remains.
    if user := _by_name(OURS) or _by_name(LAST):
        return user
    raise StartupError("Postgres does not run as root, and this machine has no other user for it: set DATABASE_URI")


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


def _may_search(user: OsUser, status: os.stat_result) -> bool:
    # As in the kernel, only the first class that fits counts. An owner without the right gets nothing from the group.
    if status.st_uid == user.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == user.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def create_private_directory(user: OsUser, path: Path) -> None:
    """Create `path` with access only for `user`. StartupError if it exists with other access."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        # The parent may be /tmp. There, a symbolic link of another user could lead to a folder that looks right.
        status = path.lstat()
    else:
        if user.switch_to is not None:
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != user.uid or stat.S_IMODE(status.st_mode) & 0o077:
        raise StartupError(f"{path} is not a private folder of {user.name}: remove it")


def is_unrelated_process(pid: int, folder: Path) -> bool:
    """Whether `pid` is a live process in another folder, and so not a Postgres of this folder.

    False if it can't be inspected. It then belongs to another user, and Postgres itself recognises that.
    """
    try:
        # Each process of Postgres has its data folder as the working directory.
        return not folder.samefile(psutil.Process(pid).cwd())
    except psutil.ZombieProcess:
        return True
    except (psutil.Error, OSError):
        return False
