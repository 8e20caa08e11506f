"""Reads meshes and renders them into a data set of views and scenes."""
