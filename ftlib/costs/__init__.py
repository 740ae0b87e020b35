"""What a run costs: prices that a user gives, and what was used. The budget is `ftlib.tracking.budget`."""
