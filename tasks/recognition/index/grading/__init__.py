"""Grades an index on held-out views, and settles who is champion."""
