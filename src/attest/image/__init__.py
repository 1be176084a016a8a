"""Images: recipes, how they are built, and the store they live in."""
