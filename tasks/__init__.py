"""The work itself: plain functions; Prefect and MLflow only in the modules `steps`, `tracking` and `registry`."""
