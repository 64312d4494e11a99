"""A small shop: a front, payments and a worker, and the load that keeps them busy."""
