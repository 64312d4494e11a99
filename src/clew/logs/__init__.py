"""What is kept of a request until it ends: log records that are held, and the canonical line."""
