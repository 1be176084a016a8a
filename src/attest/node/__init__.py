"""A manifest's node with all that was decided for it, and how its VMM is started."""
