"""Where records go: the table for people, JSON Lines for programs."""
