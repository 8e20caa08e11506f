"""Gathers accounts of runs and the standing of people, from Prefect and MLflow, or what runs without a server left."""

import os
import time
from collections.abc import Sequence
from datetime import datetime

from deployments.api import Api
from deployments.runs.own_records import only_here, server_or_records
from gpu_pools.names import host_name, person_of
from gpu_pools.placement.queues import parse_duration
from gpu_pools.sharing.quotas import holdings_of
from gpu_pools.sharing.settings import read_settings
from gpu_pools.sharing.standing import Standing, standings
from gpu_pools.sharing.usage import WINDOW_S, Use, read_uses
from tasks.accounts.account import Account, Result, accounts_of
from tasks.base.errors import ConfigError, TrackingError
from tasks.base.servers.database import uses_postgres
from tasks.base.workspace import home


def since_time(text: str) -> float:
    """Return Unix seconds for `7d`, `12h` (ago), `2026-11-01` or `2026-11-01 08:00` of this host's time.

    Raises:
        ConfigError: it is none of these.
    """
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except ValueError:
        pass  # no date
    try:
        return time.time() - parse_duration(text)
    except ConfigError as exc:
        raise ConfigError(
            f'found the time {text!r}, need one such as 7d, 12h, 2026-11-01 or "2026-11-01 08:00"'
        ) from exc


def read_accounts(api: Api, since: float) -> tuple[list[Account], list[str]]:
    """Return the accounts of the runs that have ended since then or have not ended, and what is missing, and why.

    Args:
        api: of the server, or the records of this home.
        since: Unix seconds.
    """
    notes: list[str] = []

    def read(one: Api) -> list[Account]:
        uses = read_uses(one, since)
        results, note = _results(one, uses)
        notes.extend({note} - {"", *notes})
        return accounts_of(uses, results, host_name())

    accounts = [*read(api), *only_here(api, read, lambda account: account.run)]
    return sorted(accounts, key=lambda account: account.began), notes


def read_standings(owner: str | None = None) -> list[Standing]:
    """Return who had how much of GPUs lately, and what is left of the quotas.

    Args:
        owner: this one alone, and the groups with a quota that it is in; None: everybody.

    Raises:
        ConfigError: the settings of the yard are wrong.
    """
    settings, now = read_settings(), time.time()

    def read(one: Api) -> list[Use]:
        return read_uses(one, now - WINDOW_S)

    with server_or_records() as api:
        uses = [*read(api), *only_here(api, read, lambda use: use.run_id)]
    rows = standings(uses, settings, now)
    if owner is None:
        return rows
    mine = {person_of(owner), *(holding.who for holding in holdings_of(owner, settings))}
    return [row for row in rows if row.who in mine]


def _results(api: Api, uses: Sequence[Use]) -> tuple[dict[str, Result], str]:
    """Return what MLflow has of runs, and why it is nothing."""
    tracked = os.environ.get("MLFLOW_TRACKING_URI")
    if os.environ.get("PREFECT_API_URL") and not tracked:
        return {}, "the results of the runs are not shown: MLFLOW_TRACKING_URI is not set"
    if not tracked and not uses_postgres() and not (home() / "mlflow" / "mlflow.db").is_file():
        return {}, ""  # nothing was ever tracked here
    from tasks.accounts.results import results_of

    try:
        return results_of(api, uses), ""
    except TrackingError as exc:
        return {}, f"the results of the runs are not shown: {exc}"
