"""What connects machines: the cell that all of a cluster lives in, and the fabrics between its machines."""
