"""Generates the demo's parts, and parts that no training knows."""
