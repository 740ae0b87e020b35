"""The border to Prefect: one task per stage, a policy and one call into the library."""
