"""Times for which a device is kept for somebody, and how long runs are expected to take."""
