"""What keeps the scripts short; it imports nothing of the lesson (README.md says what is where)."""
