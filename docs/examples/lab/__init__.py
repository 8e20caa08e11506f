"""A package of one's own: a training in plain PyTorch, and a flow that runs it in the yard."""
