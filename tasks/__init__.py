"""The work of the runs, in layers: base, then run and tracking, then images and signals, then the pipelines."""
