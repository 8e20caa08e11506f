"""The training loop and its state. No MLflow, no Prefect."""
