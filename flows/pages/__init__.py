"""What people see of runs on Prefect's pages: a page that grows, rows, names, forms."""
