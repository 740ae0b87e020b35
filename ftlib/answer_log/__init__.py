"""What a served version answered, kept: `serve` writes it, `monitor` reads it."""
