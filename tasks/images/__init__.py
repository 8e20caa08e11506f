"""Reads and writes images and videos for all pipelines; knows none of them."""
