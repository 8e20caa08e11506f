"""The worker of a host: it starts runs, watches them, and settles how they ended."""
