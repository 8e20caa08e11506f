"""Says whose certificates count, by Prefect's and MLflow's own variables."""

import os
import ssl
from dataclasses import dataclass

from tasks.base.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables of a program: the file of certificates to trust, and whether any is taken."""

    file: str
    off: str


PREFECT = Variables("PREFECT_API_SSL_CERT_FILE", "PREFECT_API_TLS_INSECURE_SKIP_VERIFY")
MLFLOW = Variables("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_INSECURE_TLS")


def trusted(variables: Variables) -> ssl.SSLContext:
    """Return what a connection to an https address holds its server against.

    Raises:
        ConfigError: the file of certificates is missing, or is none.
    """
    if os.environ.get(variables.off, "").lower() in {"1", "true"}:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    file = os.environ.get(variables.file) or None
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as exc:  # SSLError is one
        raise ConfigError(f"found {variables.file}={file}, need a file of certificates (PEM): {exc}") from exc
