"""``chatd client`` inside: what is typed, what is shown, and the chat between the two."""
