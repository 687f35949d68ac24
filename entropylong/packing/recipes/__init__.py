"""Other producers of groups: the same roots, packing and table, other contexts."""
