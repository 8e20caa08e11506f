"""What commands print and complete in the terminal: tables, the details of a run, the help of flows, names."""
