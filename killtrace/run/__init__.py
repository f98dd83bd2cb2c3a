"""`killtrace run`: a command as a shell would start it, followed with all that it starts."""
