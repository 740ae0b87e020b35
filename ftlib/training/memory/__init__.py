"""What a training holds: predicted before anything of it is there, and measured while it goes on."""
