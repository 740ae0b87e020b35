"""What runs on Ray: training, and measuring on more than one worker. No other module knows Ray."""
