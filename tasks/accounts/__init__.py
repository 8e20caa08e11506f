"""Who had which device for how long and at what price: accounts of runs, their sums, the daily report."""
