"""The command `yard`: one file a group of commands, and how answers look. What it does is elsewhere."""
