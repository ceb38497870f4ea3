"""What the page needs from the program it runs in, and our settings there."""
