"""Active checks (spec §7): `probe` makes one, `monitor` keeps a loop of them per path.

What follows from a verdict is decided in `policy.health` and kept on `policy.board`.
"""
