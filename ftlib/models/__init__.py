"""Model folders on disk: found, checked, read tensor by tensor."""
