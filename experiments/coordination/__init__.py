"""Are predicted meetings those that compilers make, and what do they cost? See `__main__`."""
