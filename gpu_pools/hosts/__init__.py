"""Runs on several hosts at once: when all have their devices, and what each is told."""
