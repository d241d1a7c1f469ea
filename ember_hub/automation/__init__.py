"""Releases of watched bases, and work that is started elsewhere for them."""
