"""The training loop and its state; knows neither MLflow nor Prefect."""
