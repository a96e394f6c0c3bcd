"""How fast this library is beside the straightforward way of doing the same."""
