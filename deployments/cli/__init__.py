"""The command `yard`: one module for each group of commands, and how results are printed."""
