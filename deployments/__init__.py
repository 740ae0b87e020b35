"""What stands on a Prefect server and on a machine: deployments, automations, limits, and the processes they need."""
