"""Brings runs to MLflow: journal, upload, registry, system metrics; knows no pipeline."""
