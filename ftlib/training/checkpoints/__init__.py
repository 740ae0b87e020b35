"""What a training leaves: checkpoints to resume from, and folders that stock transformers loads."""
