"""A manifest come alive: its machines and networks, from start to end."""
