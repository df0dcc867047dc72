"""The vocabulary of the chat: its commands, their answers and its events, as JSON objects.

The server and `chatd.client` share these definitions; every gateway translates to and from them.
"""
