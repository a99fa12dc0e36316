"""What chooses the level: a policy, a pure function that decides, and the thread that follows it."""
