"""Which values of a recipe's fields to try, which to try next, and when to stop trying one."""
