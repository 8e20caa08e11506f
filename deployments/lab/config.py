"""What a lab is made of, as its file `lab.yaml` says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote

from pydantic import Field, ValidationError, model_validator

from tasks.base.errors import ConfigError
from tasks.base.outside import PARAMETER_BYTES, parse_yaml, read_text
from tasks.base.params import Params
from tasks.base.servers.password import secret_text

Role = Literal["services", "worker", "inbox"]

Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+:\d{1,5}$", description="HOST:PORT")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+[^\s]*$", description="http://... or https://...")]
Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=63)]
SecretFile = Annotated[
    Path | None, Field(description="A file of mode 0600; a path is taken from the folder of lab.yaml")
]


class DatabaseConfig(Params):
    """The PostgreSQL of Prefect and MLflow."""

    address: Address
    user: Name = "yard"
    password_file: SecretFile = None
    tls: Annotated[bool, Field(description="Whether every connection has to be encrypted")] = False
    prefect: Annotated[Name, Field(description="Prefect's database")] = "prefect"
    mlflow: Annotated[Name, Field(description="MLflow's database, in which its accounts are, too")] = "mlflow"

    @property
    def host(self) -> str:
        """Return where it is, without the port."""
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        """Return its port."""
        return int(self.address.rpartition(":")[2])

    def url(self, driver: str, database: str) -> str:
        """Return SQLAlchemy's URL of a database, with the password in it: for environments alone."""
        secret = secret_of(self.password_file)
        login = f"{quote(self.user)}:{quote(secret, safe='')}" if secret else quote(self.user)
        # Each driver has its own word for it.
        tls = {"asyncpg": "?ssl=require", "psycopg": "?sslmode=require"}[driver] if self.tls else ""
        return f"postgresql+{driver}://{login}@{self.address}/{database}{tls}"


class RedisConfig(Params):
    """The Redis through which Prefect's processes tell each other what happens."""

    address: Address
    password_file: SecretFile = None
    certificates: Annotated[Path | None, Field(description="Encrypted, and held against this ca.pem")] = None
    number: Annotated[int, Field(ge=0, le=1023, description="Of its database")] = 0

    @property
    def url(self) -> str:
        """Return its URL, with the password in it: for environments alone."""
        secret = secret_of(self.password_file)
        login = f":{quote(secret, safe='')}@" if secret else ""
        if self.certificates is None:
            return f"redis://{login}{self.address}/{self.number}"
        return f"rediss://{login}{self.address}/{self.number}?ssl_ca_certs={quote(str(self.certificates))}"


class FilesConfig(Params):
    """The S3 bucket for the files of runs."""

    place: Annotated[
        str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s]*)?$", description="s3://BUCKET/...")
    ]
    endpoint: Annotated[Url | None, Field(description="Of a server of one's own; none: Amazon's")] = None
    key_file: SecretFile = None
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] = "us-east-1"

    @property
    def bucket(self) -> str:
        """Return the name of the bucket."""
        return self.place.removeprefix("s3://").partition("/")[0]

    @property
    def prefix(self) -> str:
        """Return the folder in it, empty for none."""
        return self.place.removeprefix("s3://").partition("/")[2].strip("/")

    @property
    def key(self) -> tuple[str, str] | None:
        """Return the name of the key and its secret.

        Raises:
            ConfigError: its file holds no NAME:SECRET.
        """
        if self.key_file is None:
            return None
        name, colon, secret = secret_of(self.key_file).partition(":")
        if not colon:
            raise ConfigError(f"found no NAME:SECRET in {self.key_file}, need the key of {self.place}")
        return name, secret


class LabConfig(Params):
    """A lab, and what of it belongs on this host."""

    prefect: Annotated[Url, Field(description="Prefect's API, as everybody asks for it: https://yard.lab/api")]
    mlflow: Annotated[Url, Field(description="MLflow, as everybody asks for it: https://yard.lab:5443")]
    auth: Annotated[Path, Field(description="Folder of `yard auth init`")]
    certificates: Annotated[Path | None, Field(description="ca.pem, where the lab has an authority of its own")] = None
    here: Annotated[tuple[Role, ...], Field(min_length=1, description="What belongs on this host")] = ("services",)
    workers: Annotated[int, Field(ge=1, le=64, description="Workers of this host")] = 1
    shared_disk: Annotated[
        bool, Field(description="All GPU hosts have one home on a network disk; else files travel through MLflow")
    ] = True
    host_lost_after: Annotated[
        str,
        Field(pattern=r"^\d+(\.\d+)?[smhd]$", description="90s, 5m: without a word so long, its runs go elsewhere"),
    ] = "5m"
    database: DatabaseConfig | None = None
    redis: RedisConfig | None = None
    files: FilesConfig | None = None
    api_processes: Annotated[int, Field(ge=1, le=64, description="Processes of Prefect's API")] = 2
    first_port: Annotated[Port, Field(description="Of the first of them; the others follow")] = 4201
    mlflow_port: Port = 5000

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = [name for name in ("database", "redis", "files") if getattr(self, name) is None]
        if "services" in self.here and missing:
            raise ValueError(f"the services on this host need {', '.join(missing)}")
        if not self.prefect.rstrip("/").endswith("/api"):
            raise ValueError(f"found prefect: {self.prefect}, need the address of its API, which ends with /api")
        if self.mlflow_port in self.ports:
            raise ValueError(f"found mlflow_port {self.mlflow_port} among the ports of Prefect's processes")
        return self

    @property
    def ports(self) -> range:
        """Return the ports of Prefect's processes."""
        return range(self.first_port, self.first_port + self.api_processes)


def secret_of(path: Path | None) -> str:
    """Return what is in a file of a secret, empty for no file.

    Raises:
        ConfigError: there is no such file, or this user may not read it.
        StorageError: others can read it.
    """
    if path is None:
        return ""
    text = secret_text(path)
    if text is None:
        raise ConfigError(f"found no {path} that this user can read, need the secret in it")
    return text


def read_config(path: Path, here: Sequence[str] = ()) -> LabConfig:
    """Return the lab that a file describes.

    Args:
        path: of the file.
        here: what belongs on this host, instead of what the file says.

    Raises:
        ConfigError: it is no YAML, or a value of it is none; each fault with its place.
    """
    content = parse_yaml(read_text(path, ConfigError, PARAMETER_BYTES), ConfigError, str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"found a {type(content).__name__} in {path}, need the settings of a lab (docs/lab.md)")
    try:
        return _from_folder(
            LabConfig.model_validate(content | ({"here": tuple(here)} if here else {})), path.absolute().parent
        )
    except ValidationError as exc:
        faults = [f"{path}: {'.'.join(map(str, fault['loc'])) or 'lab'}: {fault['msg']}" for fault in exc.errors()]
        raise ConfigError("\n".join(faults)) from exc


def _from_folder(config: LabConfig, folder: Path) -> LabConfig:
    """Return the lab with its paths taken from the folder of its file."""
    changed = {
        "auth": folder / config.auth,
        "certificates": config.certificates and folder / config.certificates,
        "database": _placed(config.database, "password_file", folder),
        "redis": _placed(_placed(config.redis, "password_file", folder), "certificates", folder),
        "files": _placed(config.files, "key_file", folder),
    }
    return config.model_copy(update=changed)


def _placed(part: Params | None, name: str, folder: Path) -> Params | None:
    if part is None or getattr(part, name) is None:
        return part
    return part.model_copy(update={name: folder / getattr(part, name)})
