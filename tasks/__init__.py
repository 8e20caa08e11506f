"""The work itself, by floors: `base` < gpu_pools < `run`, `tracking` < `images`, `signals`, `geometry` < pipelines."""
