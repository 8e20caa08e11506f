"""Devices, waiting runs, and the decision which run starts next, without side effects."""
