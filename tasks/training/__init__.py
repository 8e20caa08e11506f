"""What every training of a network stands on: its loop, parameters, batches, checkpoints, champions; no pipeline."""
