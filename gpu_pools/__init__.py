"""Decides which run gets which GPU when, and starts it; computes nothing itself."""
