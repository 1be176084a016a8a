"""What connects machines: the cell that a cluster lives in, and the fabrics inside it."""
