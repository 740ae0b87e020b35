"""The loops of a phase, and what a step of them is made of."""
