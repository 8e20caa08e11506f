"""Watching a yard: the picture of `yard top`, and examples for Prometheus and Grafana (`*.yml`, `*.json`)."""
