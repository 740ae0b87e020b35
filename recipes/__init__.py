"""Recipes, and the builders of the rows and models that some of them read: `python -m recipes.icons rows/icons`."""
