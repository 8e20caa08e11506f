"""The benchmark of models over signal-to-noise ratios."""
