"""Rankings within lists: which rows form a list, and how good their order is."""
