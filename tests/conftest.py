"""Settings of every test: no calls home, and one thread per process, so that tests share the cores in peace."""

import os

# Two torch processes with two threads each on two cores run many times slower than with one each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
