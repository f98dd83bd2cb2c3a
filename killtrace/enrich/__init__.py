"""What /proc, the cgroup tree, the user database and terminals add to a record."""
