"""A server that runs, asked for the ids that it really feeds: `http` asks, `servers` knows the kinds, `open_server` is
the engine that the comparison gets.
"""
