"""What people who share a yard change and may change: acts and their audit, bookings, accounts, permissions."""
