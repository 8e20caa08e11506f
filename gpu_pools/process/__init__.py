"""The process of a run: what it is started with, how it is started, found and killed; nothing of who starts when."""
