"""Workers: work that is heavy or may fail hard, in a process of its own."""
