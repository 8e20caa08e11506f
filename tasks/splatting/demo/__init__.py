"""Generates the demo's room, and a video of it."""
