"""Grades a detector: precision and recall, what it answers for each part, figures and reports."""
