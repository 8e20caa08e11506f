"""Looks at each service of a lab, and says in one sentence what is wrong with it."""

import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from deployments.lab.config import DatabaseConfig, FilesConfig, LabConfig, RedisConfig, secret_of
from deployments.lab.files import s3_client
from tasks.base.servers.mlflow_account import account, account_file, settings_file
from tasks.base.servers.password import basic, password
from tasks.base.servers.tls import MLFLOW, PREFECT, Variables, trusted

LEAST_POSTGRES = 14
LEAST_REDIS = (6, 2)
"""Prefect's events are a stream, whose abandoned entries others take over since then."""

MOST_SKEW_S = 30.0
"""Leases, heartbeats and signatures of S3 compare the clocks of two machines."""

Heads = Mapping[str, bool]

_PATIENCE_S = 5
_PROBE = "yard-probe"


def check_lab(config: LabConfig, *, upgrade: bool = False) -> list[str]:
    """Return a sentence for each fault of what this host needs of a lab.

    Args:
        config: of the lab.
        upgrade: whether tables of an older version are brought up to date, and so no fault.

    Raises:
        ConfigError: a file with a secret is missing.
        StorageError: others can read one.
    """
    faults = list(check_secrets(config))
    if "services" in config.here:
        heads = (prefect_heads(), mlflow_heads())
        faults += check_servers(config, [dict.fromkeys(known, True) for known in heads] if upgrade else heads)
    else:
        faults += check_prefect(config)
        faults += check_mlflow(config)
    return faults


def check_servers(config: LabConfig, heads: Sequence[Heads | None] = (None, None)) -> list[str]:
    """Return a sentence for each fault of PostgreSQL, Redis and S3.

    Args:
        config: of the lab, on the host of its services.
        heads: what `check_database` needs for Prefect's and MLflow's tables; None: they are not looked at.
    """
    faults: list[str] = []
    if config.database and config.redis and config.files:
        for name, known in zip((config.database.prefect, config.database.mlflow), heads, strict=True):
            faults += check_database(config.database, name, known)
        faults += check_redis(config.redis)
        faults += check_files(config.files)
    return list(dict.fromkeys(faults))  # both databases are on one server


def check_secrets(config: LabConfig) -> Iterator[str]:
    """Yield what is missing of the files of `yard auth init`."""
    folder, how = config.auth, f"`yard auth init {config.auth}`, on one host of the lab; the others get copies"
    if account() is None or password() is None:
        yield f"found no password and mlflow-password in {folder} that this user can read: {how}"
    elif "services" in config.here and not settings_file().exists():
        yield f"found no {settings_file()}, without which MLflow asks nobody who they are: {how}"
    if config.certificates and not config.certificates.is_file():
        yield f"found no file {config.certificates}, need the certificate of the lab's own authority"


def check_database(config: DatabaseConfig, name: str, heads: Heads | None) -> Iterator[str]:
    """Yield what is wrong with one of the databases.

    Args:
        config: where PostgreSQL is.
        name: of the database.
        heads: each state of its tables that this version knows, and whether it is the newest; None: any will do.
    """
    import psycopg

    where = f"PostgreSQL at {config.address}"
    try:
        with psycopg.connect(
            host=config.host,
            port=config.port,
            user=config.user,
            password=secret_of(config.password_file) or None,
            dbname=name,
            connect_timeout=_PATIENCE_S,
            sslmode="require" if config.tls else "prefer",
        ) as connection:
            yield from _inside(connection, where, name, heads)
    except psycopg.OperationalError as exc:
        yield _no_connection(str(exc), config, name)
    except psycopg.Error as exc:
        yield f"{where}, database {name}: {_line(exc)}"


def _no_connection(said: str, config: DatabaseConfig, name: str) -> str:
    where = f"PostgreSQL at {config.address}"
    if "authentication failed" in said or "no password supplied" in said:
        return (
            f"{where} refuses user {config.user}: another password than in {config.password_file or 'no password_file'}"
        )
    if f'database "{name}" does not exist' in said:
        return f"{where} has no database {name}: `CREATE DATABASE {name} OWNER {config.user}` makes it"
    if "server does not support SSL" in said:
        return f"{where} encrypts nothing, and the settings say tls: true: switch ssl on there"
    if "pg_hba.conf" in said:
        return f"{where} lets user {config.user} of this host not into {name}: its pg_hba.conf needs a line for that"
    return f"{where} does not answer: {said.strip().splitlines()[0] if said.strip() else 'no reason given'}"


def _inside(connection: Any, where: str, name: str, heads: Heads | None) -> Iterator[str]:
    major = connection.info.server_version // 10_000
    if major < LEAST_POSTGRES:
        yield f"found {where} of version {major}, need {LEAST_POSTGRES} or newer"
    (now,) = connection.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()
    yield from skewed(where, float(now))
    (may,) = connection.execute("SELECT has_schema_privilege('public', 'CREATE')").fetchone()
    if not may:
        yield f"{where} lets this user make no tables in {name}: `ALTER DATABASE {name} OWNER TO ...` does"
    (there,) = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
    if not there or heads is None:
        return
    for (state,) in connection.execute("SELECT version_num FROM alembic_version").fetchall():
        if state not in heads:
            yield f"the tables in {name} at {where} are of a newer version ({state}): upgrade this host first"
        elif not heads[state]:
            yield (
                f"the tables in {name} at {where} are of an older version ({state}): back them up, end all of the lab, "
                "and start with --upgrade"
            )


def prefect_heads(kind: str = "postgresql") -> dict[str, bool]:
    """Return each state of the tables that this version of Prefect knows, and whether it is the newest.

    Args:
        kind: of the database, as SQLAlchemy calls it.
    """
    from prefect.server.database.alembic_commands import alembic_config

    config = alembic_config()
    folder = Path(str(config.config_file_name)).parent / "_migrations" / "versions" / kind
    config.set_main_option("version_locations", str(folder))
    return _states(config)


def mlflow_heads() -> dict[str, bool]:
    """Return each state of the tables that this version of MLflow knows, and whether it is the newest."""
    from mlflow.store.db.utils import _get_alembic_config

    return _states(_get_alembic_config("postgresql://"))


def _states(config: Any) -> dict[str, bool]:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(config)
    heads = set(scripts.get_heads())
    return {script.revision: script.revision in heads for script in scripts.walk_revisions()}


def check_redis(config: RedisConfig) -> Iterator[str]:
    """Yield what is wrong with Redis."""
    import redis

    where = f"Redis at {config.address}"
    try:
        with closing(
            redis.Redis.from_url(config.url, socket_timeout=_PATIENCE_S, socket_connect_timeout=_PATIENCE_S)
        ) as store:
            info: Any = store.info()
            version = str(info["redis_version"])
            if tuple(int(part) for part in version.split(".")[:2]) < LEAST_REDIS:
                yield f"found {where} of version {version}, need {'.'.join(map(str, LEAST_REDIS))} or newer"
            if info.get("maxmemory") and info.get("maxmemory_policy") != "noeviction":
                yield f"{where} drops what it holds when it is full ({info['maxmemory_policy']}): need noeviction"
            seconds, microseconds = store.time()
            yield from skewed(where, seconds + microseconds / 1e6)
    except redis.AuthenticationError:
        yield f"{where} refuses: another password than in {config.password_file or 'no password_file'}"
    except redis.RedisError as exc:
        yield f"{where} does not answer: {_line(exc)}"
    except OSError as exc:  # the file of certificates
        yield f"{where} cannot be held against {config.certificates}: {exc}"


def check_files(config: FilesConfig) -> Iterator[str]:
    """Yield what is wrong with the bucket; a probe is written, read and removed."""
    import botocore.exceptions

    where = f"S3 at {config.endpoint or 'Amazon'}"
    store = s3_client(config)
    key = "/".join(filter(None, [config.prefix, _PROBE]))
    try:
        said = store.head_bucket(Bucket=config.bucket)
        if date := said["ResponseMetadata"]["HTTPHeaders"].get("date"):
            yield from skewed(where, parsedate_to_datetime(date).timestamp())
        store.put_object(Bucket=config.bucket, Key=key, Body=b"probe")
        store.get_object(Bucket=config.bucket, Key=key)["Body"].read()
        store.delete_object(Bucket=config.bucket, Key=key)
    except botocore.exceptions.ClientError as exc:
        yield _no_bucket(exc, config, where)
    except botocore.exceptions.NoCredentialsError:
        yield f"found no key for {config.place}: set files.key_file, or this user's own credentials of AWS"
    except (botocore.exceptions.BotoCoreError, OSError) as exc:
        yield f"{where} does not answer: {_line(exc)}"


def _no_bucket(exc: Any, config: FilesConfig, where: str) -> str:
    code = str(exc.response.get("Error", {}).get("Code", ""))
    what = exc.operation_name
    if code in {"502", "503", "504"}:
        return f"{where} does not answer, only a proxy in front of it ({code})"
    if code in {"404", "NoSuchBucket"}:
        return f"{where} has no bucket {config.bucket}: make it there"
    if code in {"InvalidAccessKeyId", "SignatureDoesNotMatch"}:
        return f"{where} does not know the key in {config.key_file}, or its secret is another one"
    if code == "RequestTimeTooSkewed":
        return f"the clock of {where} differs too much from this host's: run NTP on both"
    if code in {"403", "AccessDenied", "Forbidden"}:
        doing = {"PutObject": "write", "GetObject": "read", "DeleteObject": "delete"}.get(what, "see")
        return f"{where} lets the key in {config.key_file} not {doing} in {config.place}"
    return f"{where} refuses {what} in {config.place}: {_line(exc)}"


def check_prefect(config: LabConfig) -> Iterator[str]:
    """Yield what is wrong with Prefect's API, as a worker finds it."""
    yield from _check_version("Prefect", config.prefect, "/admin/version", PREFECT, password())


def check_mlflow(config: LabConfig) -> Iterator[str]:
    """Yield what is wrong with MLflow, as a worker finds it."""
    yield from _check_version("MLflow", config.mlflow, "/version", MLFLOW, account())


def _check_version(program: str, url: str, path: str, variables: Variables, secret: str | None) -> Iterator[str]:
    """Yield why a server does not answer, or that its version is another one than that of the package here."""
    where = f"{program} at {url}"
    said, faults = _asked(url, path, variables, basic(secret or ""), where)
    yield from faults
    found, here = (said or "").strip().strip('"'), metadata.version(program.lower())
    if said is not None and found.split(".")[:2] != here.split(".")[:2]:
        yield f"found {where} of version {found}, need {here}, as on this host"


def _asked(
    url: str, path: str, variables: Variables, shown: Mapping[str, str], where: str
) -> tuple[str | None, list[str]]:
    """Return what a server answers, None for nothing, and what is wrong with that."""
    request = urllib.request.Request(url.rstrip("/") + path, headers=dict(shown))
    context = trusted(variables) if url.startswith("https") else None
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE_S, context=context) as answer:
            date = answer.headers.get("Date")
            faults = list(skewed(where, parsedate_to_datetime(date).timestamp())) if date else []
            return answer.read(10_000).decode(errors="replace"), faults
    except urllib.error.HTTPError as exc:
        if exc.code == 401:
            return None, [f"{where} refuses the password in {account_file().parent}: copy that of the services' host"]
        return None, [f"{where} answers {exc.code}: is it the address of the lab?"]
    except urllib.error.URLError as exc:
        if isinstance(exc.reason, ssl.SSLCertVerificationError):
            return None, [
                f"{where} has a certificate that this host does not trust: set certificates to the lab's ca.pem"
            ]
        return None, [f"{where} does not answer: {exc.reason}"]
    except OSError as exc:
        return None, [f"{where} does not answer: {exc}"]


def skewed(where: str, then: float) -> Iterator[str]:
    """Yield a sentence where a clock differs too much from this host's.

    Args:
        where: the clock is.
        then: its time, in Unix seconds.
    """
    ahead = then - time.time()
    if abs(ahead) > MOST_SKEW_S:
        way = "ahead of" if ahead > 0 else "behind"
        need = f"need {MOST_SKEW_S:.0f} s at most: run NTP on both"
        yield f"the clock of {where} is {abs(ahead):.0f} s {way} this host's, {need}"


def _line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
