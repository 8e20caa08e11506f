"""The inbox: what is dropped into a folder, or sent from another machine, becomes a run."""
