"""Devices and who may use them; knows nothing of what runs on them."""
