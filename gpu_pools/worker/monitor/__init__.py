"""Watches the runs of a host: asks them to end, frees their slots, and tells how they ended."""
