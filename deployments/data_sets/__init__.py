"""Data sets of the store, as people name them in parameters and see them travel; the store itself is `tasks.store`."""
