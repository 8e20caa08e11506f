"""Searches over the parameters of a flow: each trial is a run of the yard."""
