"""The worker of a host: starts runs, watches them, and sets their final state."""
