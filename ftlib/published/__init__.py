"""What a published version carries and can be asked: card, usage, lineage, rows, answers."""
