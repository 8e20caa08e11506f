"""The command `yard` and the local services."""
