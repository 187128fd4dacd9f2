"""Arms of the speed comparison: the same updates by Luthier's own loop and by other tools, each in its own process."""
