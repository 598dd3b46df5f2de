"""Bytes <-> values and events, without I/O or a clock: `http1`, `yamux`, `opening`."""
