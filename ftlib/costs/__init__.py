"""What a run costs: prices that a user gives, what was used, and a budget that a run stops before."""
