"""The fit: its loop, its state, how Gaussians come and go. No files of results."""
