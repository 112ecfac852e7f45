"""The command line: a client of the control API, except for what starts or makes a platform."""
