"""A yard behind the proxy that is shipped, with a certificate authority of its own, as other machines see it."""

import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from deployments.services.service import free_port
from tests.deployments.closed_yard import ROOT, Closed, closed_yard
from tests.deployments.waiting import wait_for

HOST = "127.0.0.2"  # a name that is no loopback name: the guard has to be told of it
FILES = ROOT / "deployments" / "lab"
ANNA = "anna-has-a-long-one"


@contextmanager
def proxied_yard(folder: Path) -> Iterator[tuple[Closed, dict[str, str]]]:
    """Have a yard behind Caddy for the block; also the variables of Anna, who works on another machine.

    Args:
        folder: empty, for certificates.
    """
    prefect, mlflow = free_port(), free_port()
    subprocess.run(["sh", FILES / "certificates.sh", HOST, folder], check=True, capture_output=True)
    with closed_yard(TRAINYARD_ALLOWED_HOSTS=HOST) as yard:
        environ = os.environ | {
            "YARD_HOST": HOST,
            "YARD_BIND": HOST,
            "YARD_PORT": str(prefect),
            "YARD_MLFLOW_PORT": str(mlflow),
            "YARD_PREFECT": yard.prefect.removeprefix("http://"),
            "YARD_MLFLOW": yard.mlflow.removeprefix("http://"),
            "YARD_CERT": str(folder / "yard.pem"),
            "YARD_KEY": str(folder / "yard.key"),
            "XDG_DATA_HOME": str(folder / "caddy"),
            "XDG_CONFIG_HOME": str(folder / "caddy"),
        }
        command = ["caddy", "run", "--config", FILES / "Caddyfile", "--adapter", "caddyfile"]
        with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as caddy:
            try:
                yard.yard("auth", "add", "anna", text=f"{ANNA}\n")
                person = {
                    "TRAINYARD_HOME": str(yard.home.parent / "annas"),
                    "PREFECT_API_URL": f"https://{HOST}:{prefect}/api",
                    "PREFECT_API_SSL_CERT_FILE": str(folder / "ca.pem"),
                    "PREFECT_API_AUTH_STRING": (yard.home / "password").read_text().strip(),
                    "MLFLOW_TRACKING_URI": f"https://{HOST}:{mlflow}",
                    "MLFLOW_TRACKING_SERVER_CERT_PATH": str(folder / "ca.pem"),
                    "MLFLOW_TRACKING_USERNAME": "anna",
                    "MLFLOW_TRACKING_PASSWORD": ANNA,
                }
                page = person["PREFECT_API_URL"].removesuffix("/api")
                wait_for(lambda: httpx.get(page, verify=trusting(folder)).status_code == 200)
                yield yard, person
            finally:
                caddy.terminate()


def trusting(folder: Path) -> ssl.SSLContext:
    """Return what takes certificates of the authority in a folder."""
    return ssl.create_default_context(cafile=folder / "ca.pem")
