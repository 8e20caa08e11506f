"""Brings MLflow's tables up to date: `python -m deployments.lab.mlflow_tables`, as `yard up --stack lab` does it."""

import os

from deployments.services.mlflow_server import BACKEND


def main() -> None:
    """Make or upgrade the tables, and those of accounts, in the database that the environment names."""
    from mlflow.server.auth.db.utils import migrate_if_needed
    from mlflow.store.db.utils import _initialize_tables, _is_empty_database, _upgrade_db, create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(os.environ[BACKEND])
    if _is_empty_database(engine):
        _initialize_tables(engine)
    else:
        _upgrade_db(engine)
    migrate_if_needed(engine, "head")


if __name__ == "__main__":
    main()
