"""The loss between drawn and taken images, and the quality of a splat."""
