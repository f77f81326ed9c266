"""`deltaloop connect`: the configuration that points a client at this server, printed or put in place."""
