"""Slots of devices, as kernel locks and files on this host."""
