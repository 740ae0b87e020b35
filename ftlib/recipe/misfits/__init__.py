"""What of a recipe does not fit together, by subject: each misfit says name, got and allowed in one line."""
