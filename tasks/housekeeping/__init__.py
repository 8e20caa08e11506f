"""Removes what nobody needs any more, rule by rule; a receipt says what went, and why."""
