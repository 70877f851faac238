"""Sites, hosts, a WAN, clients and guests on one machine, for tests, demos and trials."""
