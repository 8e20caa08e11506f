-- MLflow's database beside Prefect's, which is there already, and what Prefect's tables need.
CREATE DATABASE mlflow OWNER yard;
CREATE EXTENSION IF NOT EXISTS pg_trgm;
