"""Tasks: one file for each kind of question an algorithm answers."""
