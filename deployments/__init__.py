"""The command `yard`, and the services of a host."""
