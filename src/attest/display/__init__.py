"""What a machine shows on its screen: pictures, their text, and keys."""
