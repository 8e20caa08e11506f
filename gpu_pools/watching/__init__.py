"""What a worker tells those who watch the yard: Prometheus' metrics, at an address of its own."""
