"""What Python itself does around us: forks, signals, the garbage collector, locks, callables in all their forms."""
