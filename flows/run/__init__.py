"""What a run is made of: its jobs, the order of its steps, what it leaves about itself."""
