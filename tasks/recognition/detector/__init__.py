"""Finds parts in images: networks, their training on rendered and real scenes, grading and use."""
