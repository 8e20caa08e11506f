"""The private PostgreSQL of a home, reached over a socket that only its owner can open."""

import os
import pwd
import re
import secrets
import shutil
import socket
import stat
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from deployments.services.service import ServiceError
from tasks.base.errors import StorageError
from tasks.base.home import make_home
from tasks.base.servers.database import database_file, postgres_record
from tasks.base.workspace import home, storage_errors, write_atomic, write_json

DATABASES = ("prefect", "mlflow")
ROLE = "yard"
PORT = 5432  # part of the socket's name; nothing listens on a port
ELSEWHERE = Path("/var/lib/trainyard")
"""Where the data lies if its user cannot get into TRAINYARD_HOME, as below /root."""

_LONGEST_SOCKET_FOLDER = 90  # characters; the kernel takes 107 for the whole name of a socket
_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
_MAJOR = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A PostgreSQL of one home.

    Args:
        data: its folder, which nobody but `user` can read.
        programs: folder of initdb and postgres.
        major: version.
        user: it runs as, never root, which PostgreSQL refuses.
    """

    data: Path
    programs: Path
    major: str
    user: pwd.struct_passwd

    @property
    def sockets(self) -> Path:
        """Return the folder of its socket: beside the data, or, where that name is too long, in /tmp."""
        beside = self.data.parent / "socket"
        if len(str(beside)) <= _LONGEST_SOCKET_FOLDER:
            return beside
        return Path(f"/tmp/trainyard-{self.user.pw_uid}-{sha256(bytes(self.data)).hexdigest()[:10]}")

    def url(self, driver: str, database: str) -> str:
        """Return SQLAlchemy's URL of a database."""
        return f"postgresql+{driver}:///{database}?host={quote(str(self.sockets))}&port={PORT}&user={ROLE}"

    def ready(self) -> bool:
        """Return whether it takes connections: it listens, and its file of state says so, which pg_ctl reads, too."""
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.sockets / f".s.PGSQL.{PORT}")) != 0:
                return False  # what the file says would be of a server that was killed
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"


def installed() -> dict[str, Path]:
    """Return the versions of PostgreSQL on this machine: major -> folder of the programs."""
    folders = [  # of Debian, of Red Hat, of the sources
        *Path("/usr/lib/postgresql").glob("*/bin"),
        *Path("/usr").glob("pgsql-*/bin"),
        Path("/usr/local/pgsql/bin"),
    ]
    if found := shutil.which("postgres"):
        folders.append(Path(found).resolve().parent)
    return {major: folder for folder in folders if (major := _major(folder))}


def _major(folder: Path) -> str | None:
    if not all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres")):
        return None
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    return found[1] if (found := _MAJOR.search(said)) else None


def server_user() -> pwd.struct_passwd | None:
    """Return who the server would run as; None where PostgreSQL could not: a user without a name."""
    uid = os.geteuid()
    for wanted in ["postgres", "nobody"] if uid == 0 else [uid]:
        with suppress(KeyError):
            return pwd.getpwnam(wanted) if isinstance(wanted, str) else pwd.getpwuid(wanted)
    return None


def load() -> Cluster:
    """Return the cluster of this home.

    Raises:
        ServiceError: its version of PostgreSQL is not on this machine, or nobody is there to run it as.
    """
    record = postgres_record()
    data, user, versions = home() / record["data"], server_user(), installed()
    if user is None:
        raise ServiceError(f"cannot run the PostgreSQL in {data}: user {os.geteuid()} has no name on this machine")
    major = record["major"]
    if major not in versions:
        have = ", ".join(sorted(versions)) or "none"
        raise ServiceError(
            f"the runs of {home()} are in a PostgreSQL {major} ({data}), found on this machine: {have}. Install "
            f"postgresql-{major}; or move the data to the other version with pg_upgrade, and write that into "
            f"{database_file()}"
        )
    return Cluster(data, versions[major], major, user)


def create() -> Cluster:
    """Make the cluster of a home that has none, with its databases, and write down where it is.

    Raises:
        ServiceError: PostgreSQL is not on this machine, or refuses; with its words.
        StorageError: the disk is full, or a folder cannot be made.
    """
    versions, user = installed(), server_user()
    if not versions or user is None:
        raise ServiceError("found no PostgreSQL that can be run here: apt install postgresql")
    major = max(versions, key=int)
    cluster = Cluster(_place(user) / "data", versions[major], major, user)
    making = cluster.data.with_name("data.tmp")  # a killed attempt leaves nothing that looks whole
    with storage_errors(making):
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True, mode=0o700)
        os.chown(making, user.pw_uid, user.pw_gid)
    init = ("initdb", "-D", str(making), "--username=postgres", "--encoding=UTF8", "--locale=C", "--data-checksums")
    _call(cluster, init)
    owned = "".join(f"CREATE DATABASE {name} OWNER {ROLE};\n" for name in DATABASES)
    _call(cluster, ("postgres", "--single", "-D", str(making), "template1"), f"CREATE ROLE {ROLE} LOGIN;\n{owned}")
    # Prefect's tables need it; the role itself may not add what is not trusted.
    _call(cluster, ("postgres", "--single", "-D", str(making), "prefect"), "CREATE EXTENSION pg_trgm;\n")
    with storage_errors(cluster.data):
        making.rename(cluster.data)
    record(cluster)
    return cluster


def record(cluster: Cluster) -> None:
    """Write down where a cluster is, for whoever needs its databases."""
    data = cluster.data
    fields = {
        "major": cluster.major,
        "data": str(data.relative_to(home()) if data.is_relative_to(home()) else data),
        "prefect": cluster.url("asyncpg", "prefect"),
        "mlflow": cluster.url("psycopg", "mlflow"),
    }
    if not database_file().is_file() or postgres_record() != fields:
        write_json(database_file(), fields)


def _place(user: pwd.struct_passwd) -> Path:
    """Return the folder for data and socket: in the home, or elsewhere if the user cannot get there."""
    inside = home() / "postgres"
    _let_in(user)
    with storage_errors(inside):
        inside.mkdir(parents=True, exist_ok=True)
        inside.chmod(0o755)  # whatever the umask; the data in it is closed
        if _reaches(user, inside):
            return inside
        outside = ELSEWHERE / f"{home().parent.name}-{secrets.token_hex(4)}"
        outside.mkdir(parents=True)
        for folder in (ELSEWHERE, outside):
            folder.chmod(0o755)
        (outside / "home").write_text(f"{home()}\n")  # whose it is, for whoever tidies up there
        if not _reaches(user, outside):
            raise StorageError(f"user {user.pw_name}, who runs PostgreSQL, cannot get into {inside} nor {outside}")
        return outside


def _let_in(user: pwd.struct_passwd) -> None:
    """Give root's home, which is closed to others, to the group of the server's user, who has to get through it."""
    found = make_home().stat()
    if os.geteuid() == 0 and found.st_uid == found.st_gid == 0 and user.pw_name == "postgres":
        os.chown(home(), -1, user.pw_gid)


def _reaches(user: pwd.struct_passwd, folder: Path) -> bool:
    """Return whether a user gets into a folder; asked as that user, since only the kernel knows every rule."""
    if user.pw_uid == os.geteuid():
        return True
    ids = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return subprocess.run(["test", "-x", folder], cwd="/", check=False, **ids).returncode == 0  # type: ignore[call-overload]


def _call(cluster: Cluster, argv: Sequence[str], text: str = "") -> None:
    """Run one of PostgreSQL's programs as its user.

    Raises:
        StorageError: the disk is full.
        ServiceError: it fails; with its words.
    """
    user = cluster.user
    ids = {} if user.pw_uid == os.geteuid() else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    try:
        done = subprocess.run(
            [cluster.programs / argv[0], *argv[1:]],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env={**os.environ, "LC_ALL": "C", "HOME": str(cluster.data.parent)},
            start_new_session=True,  # Ctrl-C is for this process; half a database would be made
            **ids,  # type: ignore[call-overload]
        )
    except PermissionError as exc:
        raise ServiceError(
            f"user {user.pw_name} may not run {exc.filename}: TRAINYARD_DATABASE=sqlite does without"
        ) from exc
    words = done.stderr.strip()
    if any(full in words for full in _FULL):
        raise StorageError(f"disk full while making the database in {cluster.data}: free room there")
    if done.returncode != 0 or "ERROR:" in words or "FATAL:" in words:  # single-user mode ends with 0 all the same
        raise ServiceError(
            f"PostgreSQL {cluster.major} cannot make a database in {cluster.data}; {argv[0]} says:\n{words}\n"
            "TRAINYARD_DATABASE=sqlite does without it"
        )


def server_command(cluster: Cluster) -> list[str]:
    """Return the command of the server, run by root or by its own user; its folder of sockets is made.

    Raises:
        ServiceError: somebody else has that folder.
    """
    _let_in(cluster.user)
    _make_sockets(cluster)
    beside = cluster.data.parent
    owner = pwd.getpwuid(os.geteuid()).pw_name
    # Not in the data: its user could put a link in their place, which root would write through.
    write_atomic(beside / "pg_hba.conf", b"local all all peer map=yard\n")
    names = "".join(f'yard "{name}" {role}\n' for name in {owner, cluster.user.pw_name} for role in (ROLE, "postgres"))
    write_atomic(beside / "pg_ident.conf", names.encode())
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": f'"{cluster.sockets}"',
        "unix_socket_permissions": "0700",
        "port": str(PORT),
        "hba_file": str(beside / "pg_hba.conf"),
        "ident_file": str(beside / "pg_ident.conf"),
        "dynamic_shared_memory_type": "mmap",  # systemd removes other shared memory when the user logs out
        "max_connections": "200",
        "max_wal_size": "256MB",
        "log_checkpoints": "off",
    }
    assigned = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return [str(cluster.programs / "postgres"), "-D", str(cluster.data), *assigned]


def _make_sockets(cluster: Cluster) -> None:
    folder, user = cluster.sockets, cluster.user
    with storage_errors(folder):
        if not os.path.lexists(folder):
            folder.mkdir(mode=0o700)
            os.chown(folder, user.pw_uid, user.pw_gid)
        found = folder.lstat()
    # In /tmp anybody may have made it before us.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user.pw_uid or found.st_mode & 0o077:
        raise ServiceError(f"found {folder} open to others, need a folder of {user.pw_name} alone: remove it")
