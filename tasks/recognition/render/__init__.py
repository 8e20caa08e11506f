"""Renders parts into a data set of views and scenes."""
