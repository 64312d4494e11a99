"""One measured call, from its beginning to the series that it is recorded in."""
