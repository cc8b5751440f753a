"""Where alerts go besides their topic: one module a kind of place, behind the port in port.py."""
