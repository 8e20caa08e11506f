"""The programs of `yard up` one by one, and those that several commands share."""
