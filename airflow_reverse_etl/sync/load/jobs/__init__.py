"""Rows in jobs, which a destination takes now and answers later."""
