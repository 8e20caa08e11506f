"""A yard of several machines: files for its services, and what checks and starts them."""
