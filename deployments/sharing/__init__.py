"""What people who share a yard see and tell of each other: accounts, notices, the audit."""
