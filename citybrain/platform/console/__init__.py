"""The console: one place in a browser for developers, departments and admins, in zh and en."""
