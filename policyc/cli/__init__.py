"""The command line. `main` is the click group; each command is in a file of its own and imported when it is called."""
