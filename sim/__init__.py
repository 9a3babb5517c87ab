"""The researcher: a whole federation on one machine, through the real server and client code."""
