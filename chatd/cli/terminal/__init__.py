"""``chatd client`` inside: parsing typed lines, formatting events, and the chat itself."""
