"""Tries on generated data whether a device computes correctly and fast."""
