"""Watches the runs of a host: asks them to end, frees their slots, and tells Prefect and MLflow how they ended."""
