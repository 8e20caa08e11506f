"""The command `yard`: one module for each group of commands."""
