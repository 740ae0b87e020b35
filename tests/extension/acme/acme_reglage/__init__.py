"""What a team adds to Réglage without a fork of it."""
