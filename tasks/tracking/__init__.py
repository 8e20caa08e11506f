"""How runs reach MLflow: the journal, its upload, the registry, the machine's metrics. No pipeline's own."""
