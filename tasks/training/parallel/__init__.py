"""Training by several processes, each with a device of its own, with the result that one process would have."""
