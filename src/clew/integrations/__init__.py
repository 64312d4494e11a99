"""One module for each framework, worker and library that `clew` knows; each is imported only by who uses it."""
