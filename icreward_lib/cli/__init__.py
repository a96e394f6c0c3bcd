"""The command line: `icreward reproduce`, `prepare`, `score`, `study` and `costs`."""
