"""The splat checks of a trial: a known scene, and implementations to compare with."""
