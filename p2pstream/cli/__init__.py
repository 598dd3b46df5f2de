"""The commands (spec §11): arguments in, exit code out; no logic of their own.

Exit codes: 0 fine, 1 failed, 2 usage, 3 configuration at fault. `main` puts them together.
"""
