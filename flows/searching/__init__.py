"""A search over a recipe's fields: its recipes, trials and the processes in which they run."""
