"""The process of a run: how it is set up, started, found and killed; decides nothing."""
